#!/usr/bin/env bash
# A local stand-in for the Dockerfile's base image, for machines that reach package registries but no image registry:
# Debian with Python from this host's own package sources. Prints the image's name; made once, then found again.
#
# What this host needs to reach its registries (sources, apt options, CA bundle, pip index) is read from it at run time and
# goes into the stand-in, so that the Dockerfile itself stays free of it.
# shellcheck disable=SC2016 # $(SITE) and its like are apt's own fields
set -euo pipefail

image=${1:-trt-action-stand-in-base:local}
if docker image inspect "$image" >/dev/null 2>&1; then
  echo "$image"
  exit 0
fi

work=$(mktemp -d)
trap 'rm -rf --one-file-system "$work"' EXIT
root=$work/root
# shellcheck source=/dev/null
codename=$(. /etc/os-release && echo "$VERSION_CODENAME")
mirror=$(apt-get indextargets --format '$(SITE) $(RELEASE) $(REPO_URI)' "Created-By: Packages" |
  awk -v release="$codename" '$2 == release { print $3; exit }')
bundle=${SSL_CERT_FILE:-/etc/ssl/certs/ca-certificates.crt}

debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv "$codename" "$root" "$mirror" >&2

rm -rf "$root"/var/cache/apt/archives/*.deb "$root"/var/lib/apt/lists/* "$root"/usr/share/doc/* "$root"/usr/share/locale/*
cp --dereference "$bundle" "$root/etc/ssl/stand-in-ca.crt"
apt-config dump | grep -E '^Acquire::(Check|http|https|Retries)' >"$root/etc/apt/apt.conf.d/90stand-in" || true
rm -f "$root/etc/apt/sources.list"
apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' "Created-By: Packages" | sort --unique |
  awk -v release="$codename" '$2 ~ "^" release { print "deb " $1, $2, $3 }' >"$root/etc/apt/sources.list"

changes=(--change "ENV PIP_CERT=/etc/ssl/stand-in-ca.crt" --change "ENV LANG=C.UTF-8" --change 'CMD ["python3"]')
if index=$(python3 -m pip config get global.index-url 2>/dev/null); then
  changes+=(--change "ENV PIP_INDEX_URL=$index")
fi
tar --create --directory "$root" . | docker import "${changes[@]}" - "$image" >&2
echo "$image"
