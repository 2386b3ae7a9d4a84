"""`trt-action bump FILE --path … --image …@sha256:…`: a digest in a YAML file, for teams whose cluster follows Git."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trt_action import errors
from trt_action.commands import images

if TYPE_CHECKING:
    from trt_action.deploy.bump import Wish
    from trt_action.publish.reference import Reference


def add(commands: Any) -> None:
    """Declare the command (`commands`: what `ArgumentParser.add_subparsers` returned)."""
    bump = commands.add_parser("bump", help="set an image's digest in a YAML file, and commit it: for Argo CD or Flux")
    bump.add_argument("file", metavar="FILE", help="YAML file: manifests, Helm values, a kustomization")
    bump.add_argument("--image", required=True, metavar="IMAGE", help="HOST/REPOSITORY@DIGEST")
    text = "gets the image: spec.template.spec.containers[name=detector].image; may be given again"
    bump.add_argument("--path", action="append", default=[], metavar="PATH", help=text)
    text = "gets the digest alone, e.g. image.digest of Helm values; may be given again"
    bump.add_argument("--digest-path", action="append", default=[], metavar="PATH", help=text)
    text = "entry of `images:` in a kustomization; may be given again"
    bump.add_argument("--kustomize", action="append", default=[], metavar="NAME", help=text)
    bump.add_argument("--document", metavar="KIND/NAME", help="of several documents in the file; or its number, from 0")
    bump.add_argument("--push", action="store_true", help="commit on the remote's branch; the checkout stays as it is")
    bump.add_argument("--branch", metavar="NAME", help="branch to be changed; default: the one that is checked out")
    bump.add_argument("--new-branch", metavar="NAME", help="push there instead, on top of --branch: for a pull request")
    bump.add_argument("--message", metavar="TEXT", help="of the commit; default: image, commit and evidence")
    bump.add_argument("--link", metavar="URL", help="of the run or the evidence, for the message")
    bump.set_defaults(command=_run)


def _run(arguments: argparse.Namespace) -> int:
    image = images.reference(arguments.image)
    if not image.digest:
        raise errors.SettingsError(
            f"`{arguments.image[:200]}` has no digest.", fix="Write `HOST/REPOSITORY@sha256:…`: tags move."
        )
    if not (arguments.path or arguments.digest_path or arguments.kustomize):
        raise errors.SettingsError(
            "Nothing says where in the file the image stands.", fix="Give `--path`, `--digest-path` or `--kustomize`."
        )
    if not arguments.push and (arguments.branch or arguments.new_branch or arguments.message or arguments.link):
        raise errors.SettingsError("Branch, message and link have no effect without `--push`.", fix="Add `--push`.")
    with images.installed():
        from trt_action.deploy.bump import Wish
    wish = Wish(
        image.at(image.digest),
        tuple(arguments.path),
        tuple(arguments.digest_path),
        tuple(arguments.kustomize),
        arguments.document,
    )
    return _pushed(arguments, image, wish) if arguments.push else _written(arguments, wish)


def _written(arguments: argparse.Namespace, wish: Wish) -> int:
    from trt_action import files
    from trt_action.deploy import bump
    from trt_action.inputs import open_regular

    path = Path(arguments.file)
    with open_regular(path, noun="file", wrong=errors.SettingsError) as file:
        before = file.read(bump.MAX_BYTES + 1)
        mode = os.fstat(file.fileno()).st_mode & 0o777
    after = bump.bump(before, wish, arguments.file)
    if after == before:
        print(f"{arguments.file}: is at {wish.image.digest} already")
        return 0
    files.write_atomic(path.resolve(), after)
    path.chmod(mode)
    print(f"{arguments.file}: {wish.image.digest}")
    return 0


def _pushed(arguments: argparse.Namespace, image: Reference, wish: Wish) -> int:
    from trt_action.deploy import gitops

    done = gitops.bump(
        Path(arguments.file),
        wish,
        base=arguments.branch,
        branch=arguments.new_branch,
        message=arguments.message or gitops.message(image.at(str(image.digest)), link=arguments.link or ""),
        log=images.note,
    )
    if done.commit:
        print(f"{done.commit}  {done.branch}")
    else:
        print(f"{arguments.file}: is at {wish.image.digest} on {done.branch} already")
    return 0
