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
        "s3://bucket/v.mp4?versionId=3",
        "http://127.0.0.1:8333/bucket/a@b.mp4",
        "https://host/v.mp4?t=3&signed=no",
        "/data/what?token=1/user:name@home.mp4",
        "C:\\videos\\a.mp4",
    ],
)
def test_other_urls_stay_as_they_are(url: str) -> None:
    assert not holds_credentials(url)


WORD = st.text("abcXYZ0189+=_-", min_size=1)


@given(WORD, st.text("abcXYZ0189+=_-/", min_size=8).map(lambda s: f"x{s}"), WORD, st.text("\n \tabc'\"()", max_size=8))
def test_no_secret_of_any_form_survives(user: str, secret: str, host: str, around: str) -> None:
    for url in (f"s3://{user}:{secret}@{host}/key", f"https://{host}/v?a=1&X-Amz-Security-Token={secret}&b=2"):
        shown = without_credentials(f"{around}{url}{around}")
        assert secret not in shown
        assert without_credentials(shown) == shown


def test_errors_show_none_however_they_were_made() -> None:
    url = f"s3://AKIA:{SECRET}@bucket/store"
    shown = [str(BadInput(f"cannot use {url}")), VideoError("not_a_video", url).detail, str(RecipeMismatch(url, {"a": (1, 2)}))]
    assert all("s3://***@bucket/store" in text for text in shown)
