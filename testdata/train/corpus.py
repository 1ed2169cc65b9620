#!/usr/bin/env python3
"""Builds train.txt and heldout.txt, the text the models of this folder learn from and are measured on.

usage: corpus.py OUT_DIR SOURCE...

A SOURCE is a folder that holds the Rust documentation as HTML, the way rustup installs it (component `rust-docs`, folder
share/doc/rust of the toolchain), or a folder of .deb files (Debian's `rust-doc`; unpacked into OUT_DIR/unpacked first).
Taken are the books and the doc comments of the standard library, all under MIT OR Apache-2.0. Left out are
`embedded-book` (also offered under CC-BY-SA), the copied source code, change logs, and the pages of CPU intrinsics.

Pages become plain text. A paragraph that was seen before (ignoring digits, integer type names, case and spacing) is
dropped, so that the standard library's repetitions count once; a code block counts as one paragraph. Documents are then
split by a hash of their path: a few go to heldout.txt (at most HELD_PER_DOC bytes each, HELD_BYTES in all; whatever is
cut off is used nowhere), the others to train.txt. A held-out paragraph that occurs in train.txt too is dropped, and so is
one that names a package registry's host or a path of some machine (PLACES), because heldout.txt is kept in the repository.
"""
import hashlib, html, os, re, subprocess, sys

HELD_SHARE = 16  # of 256: share of the documents that are candidates for the held-out text
HELD_PER_DOC, HELD_BYTES = 6_000, 200_000
BOOKS = "book|reference|nomicon|rust-by-example|cargo|edition-guide|rustc|rustdoc|style-guide|error_codes|unstable-book|clippy"
# (path pattern, what to keep of the page)
KINDS = [
    (re.compile(rf"(?:^|/)(?:{BOOKS})/.*\.html$"), "main"),
    (re.compile(r"(?:^|/)(?:std|proc_macro|test)/(?!.*(?:arch|simd)/).*\.html$"), "docblock"),
]
SKIP = re.compile(r"/(print|toc|all|CHANGELOG)\.html$|changes\.html$|/src/|embedded-book")

# not text: scripts, menus, version marks, and the lines of an example that the books hide
DROP = re.compile(
    r"<!--.*?-->|<(script|style|head|nav|button|svg|title)\b.*?</\1>"
    r"|<(?:div|span)[^>]*class=\"?(?:since|toc|tooltip|boring)[^>]*>.*?</(?:div|span)>",
    re.S | re.I,
)
BLOCK = re.compile(r"</?(p|pre|h[1-6]|ul|ol|table|blockquote|div|section|details|dl)\b[^>]*>", re.I)
LINE = re.compile(r"<(li|br|tr|dt|dd)\b[^>]*>", re.I)
PRE = re.compile(r"<pre\b.*?</pre>", re.S | re.I)
TAG = re.compile(r"<[^>]+>", re.S)

# registry hosts and machine paths, which no committed file names (this one neither: hence the brackets)
PLACES = re.compile(r"crates[.]io|pypi[.]org|npmjs[.]|/(?:tmp|work|root|home|farm|users)/[a-z]", re.I)


def body_of(page, kind):
    """The part of an HTML page that holds its text."""
    if kind == "main":
        m = re.search(r"<main>(.*)</main>", page, re.S)
        return m.group(1) if m else ""
    parts = re.split(r'<div class="docblock[^"]*">', page)[1:]  # what rustdoc made from doc comments, one after another
    return "\n\n".join(re.split(r"</div></details>|</div><h\d|<details|<section", p)[0] for p in parts)


def text_of(page, kind):
    t = DROP.sub("", body_of(page, kind))
    t = PRE.sub(lambda m: re.sub(r"\n(?=[ \t]*\n)", "\n\x01", m.group()), t)  # a code block stays one paragraph
    t = LINE.sub(lambda m: "\n- " if m.group(1).lower() == "li" else "\n", BLOCK.sub("\n\n", t))
    t = html.unescape(TAG.sub("", t)).replace("\u00a0", " ").replace("\u00a7", "")
    t = re.sub(r"[ \t]+\n", "\n", t)
    t = re.sub(r" {9,}", "        ", t)
    return re.sub(r"\n{3,}", "\n\n", t).strip()


def fingerprint(para):
    """What makes two paragraphs the same paragraph."""
    p = re.sub(r"\b(?:nonzero)?[iuf](?:8|16|32|64|128|size)\b", "int", para.lower())
    return re.sub(r"[\d\s]+", "", p)


def readable(para):
    letters = sum(c.isascii() for c in para)
    return letters >= 0.95 * len(para) and max(map(len, para.split()), default=0) < 120


def unpack(folder, out):
    for name in sorted(os.listdir(folder)):
        if name.endswith(".deb"):
            target = os.path.join(out, "unpacked", name.split("_")[0])
            os.makedirs(target, exist_ok=True)
            subprocess.run(["dpkg-deb", "-x", os.path.join(folder, name), target], check=True)
            yield target


def documents(sources, out):
    for source in sources:
        roots = list(unpack(source, out)) or [source]
        for root in roots:
            for base, dirs, files in os.walk(root):
                dirs.sort()
                for name in sorted(files):
                    path = os.path.join(base, name)
                    rel = "/" + os.path.relpath(path, root)
                    rel = re.sub(r"^.*?/(?=html/)", "/", rel)  # the same key wherever it is unpacked
                    kind = next((k for pattern, k in KINDS if pattern.search(rel)), None)
                    if kind and not SKIP.search(rel) and not os.path.islink(path):
                        with open(path, encoding="utf-8", errors="strict") as f:
                            try:
                                yield rel, text_of(f.read(), kind)
                            except UnicodeDecodeError:
                                pass


def unseen(text, seen, unwanted=None):
    """The paragraphs of a text that were not seen before and do not match `unwanted`, joined again; `seen` learns them."""
    keep = []
    for para in text.split("\n\n"):
        if not para.strip() or not readable(para) or (unwanted and unwanted.search(para)):
            continue
        mark = hashlib.blake2b(fingerprint(para).encode(), digest_size=12).digest()
        if mark not in seen:
            seen.add(mark)
            keep.append(para.strip("\n").replace("\x01", ""))
    return "\n\n".join(keep)


def main():
    if len(sys.argv) < 3:
        sys.exit(__doc__)
    out, sources = sys.argv[1], sys.argv[2:]
    os.makedirs(out, exist_ok=True)
    docs = sorted((hashlib.sha256(rel.encode()).digest(), rel, text) for rel, text in documents(sources, out))
    seen, train, held = set(), [], []
    for digest, _, text in docs:  # the training text first, so that held-out paragraphs are checked against all of it
        if digest[0] >= HELD_SHARE:
            text = unseen(text, seen)
            if len(text) > 200:
                train.append(text)
    total = 0
    for digest, _, text in docs:
        if digest[0] < HELD_SHARE and total < HELD_BYTES:
            text = unseen(text, seen, PLACES)
            if len(text) > 400:
                text = text.encode()[: min(HELD_PER_DOC, HELD_BYTES - total)].decode("utf-8", "ignore")
                held.append(text)
                total += len(text.encode()) + 3
    for name, texts in ("train.txt", train), ("heldout.txt", held):
        data = ("\n\n\n".join(texts) + "\n").encode()
        with open(os.path.join(out, name), "wb") as f:
            f.write(data)
        print(f"{name}: {len(texts)} documents, {len(data)} bytes, sha256 {hashlib.sha256(data).hexdigest()}")


if __name__ == "__main__":
    main()
