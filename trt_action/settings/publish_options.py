"""Rows of the table about publishing: inputs of the action, and flags of `trt-action publish`."""

from __future__ import annotations

from trt_action.settings.option import ACTION_GROUP, Option

PUBLISH_OPTIONS: tuple[Option, ...] = (
    Option(
        "registry-username",
        ACTION_GROUP,
        None,
        "NAME",
        "Login of the registry; default: Docker's own config, if mounted.",
    ),
    Option("registry-password", ACTION_GROUP, None, "SECRET", "Password or token of `registry-username`."),
    Option(
        "variant",
        ACTION_GROUP,
        "auto",
        "NAME",
        "Runtime in the image; `auto` = that of the backend.",
        ("auto", "onnxruntime", "tensorrt-rtx", "tensorrt-lean", "tensorrt", "triton"),
    ),
    Option(
        "base-image",
        ACTION_GROUP,
        None,
        "IMAGE",
        "What the runtime is built on, or a runtime base that is ready; Triton's own image for `variant: triton`.",
    ),
    Option(
        "dockerfile",
        ACTION_GROUP,
        None,
        "PATH",
        "Your own Dockerfile of the runtime; `.j2`: a template that may extend ours. The engine comes as its last layer.",
    ),
    Option(
        "publish-mode",
        ACTION_GROUP,
        "auto",
        "MODE",
        "Who makes the runtime base: `docker` = always the Docker engine, `registry` = never, `auto` = Docker only if no "
        "registry has it.",
        ("auto", "docker", "registry"),
    ),
    Option(
        "tags",
        ACTION_GROUP,
        [],
        "LIST",
        "Rules for the image's tags, one per line, in the manner of docker/metadata-action; default: `type=sha`, "
        "`type=ref,event=branch`, `type=semver`.",
    ),
    Option(
        "index",
        ACTION_GROUP,
        False,
        "true|false",
        "Legs of a GPU matrix: tags without `<model>-<gpu>-<precision>-` are those of one index over the images of all GPUs.",
    ),
    Option("labels", ACTION_GROUP, [], "LIST", "More labels of the image, one `key=value` per line."),
    Option("max-image-size", ACTION_GROUP, None, "SIZE", "Largest image, as it is pulled, e.g. `500MB`."),
    Option(
        "max-severity",
        ACTION_GROUP,
        None,
        "SEVERITY",
        "Scan gate: the worst known vulnerability that is let through; needs trivy or grype on PATH, or `scanner-image`.",
        ("none", "negligible", "low", "medium", "high"),
    ),
    Option("scanner-image", ACTION_GROUP, None, "IMAGE", "Image of trivy or grype that scans instead of one on PATH."),
    Option(
        "scan-ignore", ACTION_GROUP, None, "PATH", "Exceptions of the scan gate, each with its expiry date and reason."
    ),
    Option("sign-key", ACTION_GROUP, None, "SECRET", "Private key (PEM, or cosign's) that signs the image's evidence."),
    Option("sign-key-password", ACTION_GROUP, None, "SECRET", "Passphrase of `sign-key`."),
    Option(
        "sign",
        ACTION_GROUP,
        "auto",
        "HOW",
        "Who signs: `auto` = `sign-key`, if there is one; `keyless` = the job's OIDC token, in sigstore's public log.",
        ("auto", "key", "keyless", "false"),
    ),
)
