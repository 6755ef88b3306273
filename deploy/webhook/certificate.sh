#!/usr/bin/env bash
# Makes the webhook's certificate (self-signed, ECDSA P-256, one year), writes it to its Secret and tells the
# API server to trust it. Run it again to renew: Portunus takes up the new Secret by itself. Between the two
# writes the API server and Portunus may disagree for a second, and failurePolicy decides.
# KUBECTL, NAMESPACE and DAYS change what it uses.
set -euo pipefail
kubectl=${KUBECTL:-kubectl}
namespace=${NAMESPACE:-portunus}
days=${DAYS:-365}
umask 077
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT

openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days "$days" -subj /CN=portunus-webhook \
    -addext "subjectAltName=DNS:portunus-webhook.$namespace.svc" -addext basicConstraints=critical,CA:FALSE \
    -addext extendedKeyUsage=serverAuth -keyout "$folder/tls.key" -out "$folder/tls.crt" 2>/dev/null

"$kubectl" create secret tls portunus-webhook-tls --namespace "$namespace" \
    --cert "$folder/tls.crt" --key "$folder/tls.key" --dry-run=client --output yaml | "$kubectl" apply --filename -
"$kubectl" patch validatingwebhookconfiguration portunus --type json --patch \
    "[{\"op\": \"add\", \"path\": \"/webhooks/0/clientConfig/caBundle\", \"value\": \"$(base64 -w0 "$folder/tls.crt")\"}]"
