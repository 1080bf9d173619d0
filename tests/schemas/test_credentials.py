from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from schemas.credentials import holds_credentials, without_credentials
from schemas.errors import BadInput, RecipeMismatch, VideoError

SECRET = "wJalrXUt/nFEMI+K7"


@pytest.mark.parametrize(
    "url",
    [
        f"s3://AKIA:{SECRET}@bucket/store",
        "s3://wJalrXUt@bucket/store",
        f"simplecache::s3://AKIA:{SECRET}@bucket/store",
        f"https://user:{SECRET}@host:8333/v.mp4",
        f"https://bucket.s3.amazonaws.com/v.mp4?versionId=3&X-Amz-Signature={SECRET}",
        f"https://bucket.s3.amazonaws.com/v.mp4?AWSAccessKeyId=AKIA&Expires=1&Signature={SECRET}",
        f"https://storage.googleapis.com/b/v.mp4?x-goog-signature={SECRET}",
        f"https://account.blob.core.windows.net/c/v.mp4?sv=2024&sig={SECRET}",
        f"https://cdn.example/v.mp4?Policy=p&Key-Pair-Id={SECRET}",
        f"https://host/v.mp4?access_token={SECRET}",
        *(f"https://host/v.mp4?{name}={SECRET}" for name in ("key", "auth", "jwt", "md5", "t", "e")),
        f"https://host/v.mp4?{SECRET}",
        f"https://host/v.mp4#access_token={SECRET}",
        f"https://host/v.mp4;token={SECRET}",
        f"https://host/v.mp4#0003?t={SECRET}",
        f"https://user%3A{SECRET.replace('/', '%2F')}%40host/v.mp4",
        f"https://user:a@b/{SECRET}@host/v.mp4",
        f"s3://bucket/v.mp4?versionId={SECRET}",
        f"zip://a.mp4::https://host/v.zip?{SECRET}",
    ],
)
def test_a_url_that_holds_a_secret_is_known_and_shown_without_it(url: str) -> None:
    assert holds_credentials(url)
    text = f"cannot reach {url} now"
    assert "wJalrXUt" not in without_credentials(text)
    assert without_credentials(text).startswith("cannot reach ")
    assert without_credentials(text).endswith(" now")


@pytest.mark.parametrize(
    "url",
    [
        "s3://bucket/raw/a@b.mp4",
        "s3://bucket/raw/**/*.mp4",
        "s3://bucket/raw/scene-??/[ab]?.mp4",
        "s3://bucket/raw/take #2; a=b?.mp4",
        "s3://bucket/v.mp4#0003",  # a clip's id, where the video's is its uri
        "https://host/v.mp4#0003",
        "http://127.0.0.1:8333/bucket/a@b.mp4",
        "http://[::1]:8333/bucket/a@b.mp4",
        "https://host/v.mp4?",
        "/data/what?token=1/user:name@home.mp4",
        "C:\\videos\\a.mp4",
    ],
)
def test_other_urls_stay_as_they_are(url: str) -> None:
    assert not holds_credentials(url)


WORD = st.text("abcXYZ0189._-", min_size=1).map(lambda word: f"h{word}")
SCHEMES = st.sampled_from(["s3", "gs", "az", "http", "https", "ftp", "simplecache::s3", "zip://a.zip::https"])
# All that may be in a URL, but for what ends or begins a part of it.
SECRETS = st.text("abcXYZ0189-._~!$'()*+,%", min_size=8).map(lambda text: f"x{text}x")
AROUND = st.text("\n \tabc'\"()", max_size=8)


@given(SCHEMES, st.tuples(WORD, WORD), st.tuples(SECRETS, SECRETS), AROUND)
def test_no_secret_of_any_form_survives(scheme: str, words: tuple[str, str], secrets: tuple[str, str], around: str) -> None:
    (user, host), (secret, other) = words, secrets
    for url in (
        f"{scheme}://{user}:{secret}@{host}/key",
        f"{scheme}://{user}:{secret}/{other}@{host}:8333/a@b",
        f"{scheme}://{secret}@{host}",
        f"{scheme}://{host}/v?a=1&X-Amz-Security-Token={secret}&b={other}",
        f"{scheme}://{host}/v;{user}={secret}?{other}#c",
        f"{scheme}://{user}:{other}@{host}/v?b=#{secret}",
        f"https://{host}/v?{secret}",
        f"https://{host}/v#{secret}",
        f"{host}/v?jwt={secret.replace(chr(39), '')}",
    ):
        shown = without_credentials(f"{around} {url} {around}")
        assert secret.replace("'", "") not in shown
        assert other not in shown
        assert without_credentials(shown) == shown


@given(st.text())
def test_text_without_urls_stays_as_it_is(text: str) -> None:
    plain = text.replace("://", ":/ /").replace("=", "")
    assert without_credentials(plain) == plain


@pytest.mark.parametrize(
    "name", ["AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "HF_TOKEN", "RAY_AUTH_TOKEN", "AZURE_STORAGE_SAS_TOKEN"]
)
def test_what_the_environment_keeps_secret_is_in_no_error_in_any_form(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, SECRET)
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/keys/service.json")
    for text in (f"refused: {SECRET}", f"GET /{SECRET.replace('/', '%2F').replace('+', '%2B')} failed"):
        assert "wJalrXUt" not in str(BadInput(text))
    assert str(BadInput("no /keys/service.json")) == "no /keys/service.json"


def test_errors_show_none_however_they_were_made() -> None:
    url = f"s3://AKIA:{SECRET}@bucket/store"
    shown = [str(BadInput(f"cannot use {url}")), VideoError("not_a_video", url).detail, str(RecipeMismatch(url, {"a": (1, 2)}))]
    assert all("s3://***@bucket/store" in text for text in shown)
