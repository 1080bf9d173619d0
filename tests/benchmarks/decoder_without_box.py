"""The decoder's program, without its box: started by `decode.py --box`, to measure what the box costs."""

from __future__ import annotations

import sys

from teacher_cache.clips import box, decoder_program

if __name__ == "__main__":
    box.close = lambda *_: ()
    decoder_program._main(int(sys.argv[1]), "cpu", int(sys.argv[3]), int(sys.argv[4]))
