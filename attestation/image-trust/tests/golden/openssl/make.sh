#!/bin/sh
# Makes this folder's files with openssl, sha256sum and printf alone: an image's manifest and configuration, a key, a
# payload in cosign's form and a signature over it. The private key is thrown away.
set -eu
cd "$(dirname "$0")"
digest() { sha256sum | cut -d' ' -f1; }
layer=$(printf layer | digest)
printf '{"architecture":"amd64","os":"linux","config":{"Entrypoint":["/analytics"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
    "$layer" >config.json
printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","size":%s,"digest":"sha256:%s"},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","size":5,"digest":"sha256:%s"}]}' \
    "$(wc -c <config.json)" "$(digest <config.json)" "$layer" >manifest.json
image="registry.example/clinic/analytics"
manifest=$(digest <manifest.json)
printf '%s:1@sha256:%s\n' "$image" "$manifest" >image
printf '{"critical":{"identity":{"docker-reference":"%s"},"image":{"docker-manifest-digest":"sha256:%s"},"type":"cosign container image signature"},"optional":null}' \
    "$image" "$manifest" >payload.json
openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out key.pem
openssl pkey -in key.pem -pubout -out key.pub
openssl dgst -sha256 -sign key.pem -out payload.sig payload.json
rm key.pem
