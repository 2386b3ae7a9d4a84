"""Rows of the table about deploying: inputs of the action, and (without `deploy-`) flags of `trt-action deploy`."""

from __future__ import annotations

from trt_action.settings.option import ACTION_GROUP, Option

PREFIX = "deploy-"


def _row(name: str, default: object, metavar: str, text: str, choices: tuple[str, ...] = ()) -> Option:
    return Option(f"{PREFIX}{name}", ACTION_GROUP, default, metavar, text, choices)


DEPLOY_OPTIONS: tuple[Option, ...] = (
    _row(
        "on",
        "publish",
        "WHEN",
        "After which activity the image is deployed, if one of the inputs below says where.",
        ("publish", "promote"),
    ),
    _row(
        "workload",
        None,
        "KIND/NAME",
        "What gets the image by its digest: `deployment/…`, `statefulset/…` or `inferenceservice/…`.",
    ),
    _row("namespace", None, "NAME", "Its namespace; default: that of the context, else `default`."),
    _row("container", None, "NAME", "Its container; default: the only one."),
    _row("timeout", "10m", "DURATION", "Time limit of the rollout; after it the image of before is put back."),
    _row("dry-run", False, "true|false", "The cluster checks the change and keeps nothing."),
    _row("kubeconfig", None, "SECRET", "Text of a kubeconfig."),
    _row("context", None, "NAME", "Context of the kubeconfig; default: its current one."),
    _row("server", None, "URL", "Instead of a kubeconfig: address of the cluster's API, with `deploy-token`."),
    _row("token", None, "SECRET", "Token for `deploy-server`."),
    _row("ca", None, "PEM", "Certificate of the authority of `deploy-server`."),
    _row("insecure", False, "true|false", "Do not check the cluster's certificate."),
    _row(
        "health",
        None,
        "WHERE",
        "Ask the server whether it is ready: `pods`, `pods:PORT` or `service/NAME:PORT` through the cluster's API, or an "
        "address.",
    ),
    _row("prometheus-url", None, "URL", "Prometheus that knows latency and errors of the pods."),
    _row("prometheus-token", None, "SECRET", "Token of Prometheus."),
    _row("watch", "5m", "DURATION", "How long Prometheus is watched after the rollout."),
    _row(
        "max-p99", None, "DURATION", "Largest p99 of requests while watched, e.g. `50ms`; above it the image goes back."
    ),
    _row("max-error-rate", None, "PERCENT", "Largest share of failed requests while watched, e.g. `1%`."),
    _row("p99-query", None, "PROMQL", "Your own query for p99 in seconds, with SELECTOR, NAMESPACE, PODS and WINDOW."),
    _row("error-rate-query", None, "PROMQL", "Your own query for the share of failed requests."),
    _row("prometheus-selector", None, "PROMQL", 'Labels of the series; default: `namespace="NAMESPACE",pod=~"PODS"`.'),
    _row(
        "command",
        None,
        "COMMAND",
        "Your own command instead of, or beside, `deploy-workload`: IMAGE, IMAGE_NAME and DIGEST are in its environment.",
    ),
    _row(
        "dispatch",
        None,
        "OWNER/REPO:TYPE",
        "Send a `repository_dispatch` event with the image, e.g. `acme/gitops:image-published`.",
    ),
    _row("bump-file", None, "PATH", "YAML file in the workspace's GitOps repository that gets the digest."),
    _row(
        "bump-path",
        [],
        "LIST",
        "Where in it: a path per line, e.g. `spec.template.spec.containers[name=detector].image`.",
    ),
    _row("bump-digest-path", [], "LIST", "Paths that get the digest alone, e.g. `image.digest` of a Helm values file."),
    _row("bump-kustomize", [], "LIST", "Names of entries in `images:` of a kustomization."),
    _row("bump-branch", None, "NAME", "Branch of the GitOps repository; default: the one that is checked out."),
    _row("bump-pull-request", False, "true|false", "Open a pull request instead of pushing to the branch."),
    _row(
        "github-token",
        None,
        "SECRET",
        "Token for `deploy-dispatch` and for the GitOps repository, if it is another one; default: `github-token`.",
    ),
)
