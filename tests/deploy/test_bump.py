"""A digest in a YAML file: the scalar's bytes change, every other byte stays."""

from __future__ import annotations

import difflib

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from trt_action.deploy.bump import Wish, bump, read
from trt_action.errors import SettingsError
from trt_action.publish.reference import Reference

DIGEST = "sha256:" + "d" * 64
IMAGE = Reference.parse(f"ghcr.io/acme/detector@{DIGEST}")
MANIFEST = """\
%YAML 1.2
---
# the service in front
apiVersion: v1
kind: Service
metadata: {name: detector}   # flow
---
apiVersion: apps/v1
kind: Deployment
metadata:
    name:   detector       # four spaces, and more
    annotations: {"a.b/image": 'old'}
spec:
  template:
    spec:
      containers:

      - name: sidecar
        image: "ghcr.io/acme/sidecar:1"
      # what is measured
      - image:   ghcr.io/acme/detector:v1   # bumped by CI
        name: detector
        args: ["--flag",   'x']
...
"""
PATH = "spec.template.spec.containers[name=detector].image"


def changed(before: bytes, after: bytes) -> list[str]:
    old, new = before.decode().splitlines(keepends=True), after.decode().splitlines(keepends=True)
    return [line for line in difflib.unified_diff(old, new, n=0) if line[0] in "+-" and line[:3] not in ("+++", "---")]


@pytest.mark.parametrize(
    ("path", "old", "new"),
    [
        (PATH, "      - image:   ghcr.io/acme/detector:v1   # bumped by CI", f"      - image:   {IMAGE}   # bumped by CI"),
        ("spec.template.spec.containers[1].image", "      - image:   ghcr.io/acme/detector:v1   # bumped by CI", f"      - image:   {IMAGE}   # bumped by CI"),
        ("spec.template.spec.containers[0].image", '        image: "ghcr.io/acme/sidecar:1"', f'        image: "{IMAGE}"'),
        ('metadata.annotations["a.b/image"]', """    annotations: {"a.b/image": 'old'}""", f"""    annotations: {{"a.b/image": '{IMAGE}'}}"""),
    ],
)  # fmt: skip
@pytest.mark.parametrize("end", ["\n", "\r\n"])
def test_one_line_changes(path: str, old: str, new: str, end: str) -> None:
    before = MANIFEST.replace("\n", end).encode()
    after = bump(before, Wish(IMAGE, (path,)), "app.yaml")
    assert changed(before, after) == [f"-{old}{end}", f"+{new}{end}"]
    assert read(after, path, None, "app.yaml") == str(IMAGE)
    assert bump(after, Wish(IMAGE, (path,)), "app.yaml") == after


@pytest.mark.parametrize(
    ("text", "path", "wanted"),
    [
        ("digest: # by CI\nx: 1\n", "digest", f"digest: {DIGEST} # by CI\nx: 1\n"),
        ("a:\n  digest:", "a.digest", f"a:\n  digest: {DIGEST}"),
        ("- a\n-\n", "[1]", f"- a\n- {DIGEST}\n"),
        ('digest: ""\n', "digest", f'digest: "{DIGEST}"\n'),
    ],
)
def test_nothing_stands_there_yet(text: str, path: str, wanted: str) -> None:
    assert bump(text.encode(), Wish(IMAGE, digest=(path,)), "x.yaml").decode() == wanted


def test_bytes_that_are_no_ascii() -> None:
    before = "\ufeff# überall größer 🚀\nimage: a:1 # ≤ ja\nname: ö".encode()
    after = bump(before, Wish(IMAGE, ("image",)), "x.yaml")
    assert after == before.replace(b"a:1", str(IMAGE).encode())


def test_helm_values() -> None:
    before = b"image:\n  repository: ghcr.io/acme/detector # kept\n  tag: v1\n  digest: ''\n"
    after = bump(before, Wish(IMAGE, digest=("image.digest",)), "values.yaml")
    assert after == before.replace(b"''", f"'{DIGEST}'".encode())


@pytest.mark.parametrize(
    ("entry", "wanted"),
    [
        ("- name: detector\n  newTag: v1 # from CI\n", f"- name: detector\n  newName: ghcr.io/acme/detector\n  digest: {DIGEST} # from CI\n"),
        ("- name: detector\n  newName: old/name\n  newTag: 'v1'\n", f"- name: detector\n  newName: ghcr.io/acme/detector\n  digest: '{DIGEST}'\n"),
        ("- newName: old/name\n  digest: sha256:1\n  name: detector\n", f"- newName: ghcr.io/acme/detector\n  digest: {DIGEST}\n  name: detector\n"),
        ("  - name: detector # it\n", f"  - name: detector # it\n    newName: ghcr.io/acme/detector\n    digest: {DIGEST}\n"),
        ("- {name: detector, newName: x, newTag: v1}\n", f"- {{name: detector, newName: ghcr.io/acme/detector, digest: {DIGEST}}}\n"),
    ],
)  # fmt: skip
def test_kustomizations(entry: str, wanted: str) -> None:
    head, tail = "kind: Kustomization\nimages:\n", "# the end\nresources: [a.yaml]\n"
    after = bump((head + entry + tail).encode(), Wish(IMAGE, kustomize=("detector",)), "kustomization.yaml")
    assert after.decode() == head + wanted + tail
    (one,) = yaml.safe_load(after)["images"]
    assert one == {"name": "detector", "newName": "ghcr.io/acme/detector", "digest": DIGEST}


def test_a_name_that_needs_no_other() -> None:
    before = b"images:\n- name: ghcr.io/acme/detector\n  newTag: v1"
    assert b"newName" not in bump(before, Wish(IMAGE, kustomize=("ghcr.io/acme/detector",)), "k.yaml")
    last = bump(b"images:\n- name: detector", Wish(IMAGE, kustomize=("detector",)), "k.yaml")
    assert yaml.safe_load(last)["images"][0]["digest"] == DIGEST


@pytest.mark.parametrize(
    ("text", "path", "words"),
    [
        ("a: {b: 1}", "a", "is no text, but a mapping"),
        ("a: [1]", "a", "is no text, but a list"),
        ("a: |\n  x\n", "a", "is a block of text"),
        ("x: &i old\na: *i\n", "a", "alias"),
        ("x: &i {image: old}\na: *i\n", "a.image", "alias"),
        ("x: &i\n  - image: old\na: *i\n", "a[0].image", "alias"),
        ("image: a", "imag", "is not in"),
        ("image: a\nimage: b\n", "image", "is there 2 times"),
        ("", "image", "is empty"),
        ("a: {image}", "a.image", "is empty"),
        ("image: &i\n", "image", "is empty"),
        ("image: a\n---\nimage: b\n", "image", "is in 2 documents"),
        ("a: [1", "a", "is no YAML"),
        ("{{- if .Values.x }}\nb: 1", "b", "is no YAML"),
        ("a: 1", "a..b", "is no path"),
        ("a: 1", "", "is empty"),
        ("a: [{n: x}, {n: x}]", "a[n=x].i", "is not in"),
        ("a: [1]", "a[3]", "is not in"),
    ],
)
def test_refusals(text: str, path: str, words: str) -> None:
    with pytest.raises(SettingsError) as caught:
        bump(text.encode(), Wish(IMAGE, (path,)), "file.yaml")
    assert words in caught.value.what


def test_which_document() -> None:
    text = "".join(f"---\nkind: Deployment\nmetadata: {{name: {name}}}\nimage: old\n" for name in "ab")
    for document in ("Deployment/b", "1"):
        after = bump(text.encode(), Wish(IMAGE, ("image",), document=document), "all.yaml").decode()
        assert [one["image"] for one in yaml.safe_load_all(after)] == ["old", str(IMAGE)]
    with pytest.raises(SettingsError, match="has no document"):
        bump(text.encode(), Wish(IMAGE, ("image",), document="Deployment/c"), "all.yaml")


def test_an_anchor_of_its_own_stays() -> None:
    after = bump(b"image: &here !!str 'old' # x\nother: *here\n", Wish(IMAGE, ("image",)), "x.yaml")
    assert after == f"image: &here !!str '{IMAGE}' # x\nother: *here\n".encode()


TEXTS = st.text(st.characters(blacklist_categories=("Cs", "Cc")), max_size=12)


@settings(max_examples=150, deadline=None)
@given(
    st.recursive(
        TEXTS | st.integers() | st.booleans() | st.none(),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
        max_leaves=8,
    ),
    st.booleans(),
    st.booleans(),
)
def test_nothing_else_changes_whatever_the_file(rest: object, flow: bool, unicode: bool) -> None:
    """In random documents, written by a YAML library: the rest reads as before, and byte for byte is as before."""
    document = {"before": rest, "target": [{"image": "a/b:1"}], "after": rest}
    text = yaml.safe_dump(document, default_flow_style=flow, allow_unicode=unicode, sort_keys=False)
    after = bump(text.encode(), Wish(IMAGE, ("target[0].image",)), "x.yaml").decode()
    assert yaml.safe_load(after) == {**document, "target": [{"image": str(IMAGE)}]}
    assert after.replace(str(IMAGE), "a/b:1") == text
