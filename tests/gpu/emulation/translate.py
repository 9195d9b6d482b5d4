"""A CUDA source as C++ for the emulation: python3 translate.py SOURCE.cu >OUTPUT.cpp"""
import re
import sys

text = open(sys.argv[1], encoding="utf-8").read()
launch = re.compile(r"(\w+(?:<[\w, ]+>)?)\s*<<<(.*?)>>>\s*\((.*?)\);", re.DOTALL)
text, count = launch.subn(r'ousac_emulation::emulate("\1", [=](auto... given) { \1(given...); }, \2, \3);', text)
if count == 0 or "<<<" in text:
    sys.exit(f"translate.py: {sys.argv[1]}: a kernel launch that is not understood")
text = re.sub(r"extern __shared__ (\w+) (\w+)\[\];", r"\1 *const \2 = static_cast<\1 *>(ousac_emulation::shared());", text)
print(f'#line 1 "{sys.argv[1]}"')
print(text, end="")
