#!/bin/sh
# Makes a set of Secrets to try the suite with: an authority of its own, a certificate for each
# service and for Redis, one for callers, a bearer token and a Redis password.
#
#   k8s/make-dev-secrets.sh FOLDER [NAMESPACE]
#   kubectl apply -f FOLDER/secrets.yaml
#
# FOLDER must not exist yet, so that no key is ever overwritten. It also holds the plain files, for
# a client outside the cluster. Not for production: the key of the authority lies beside the rest,
# and everything ends after 30 days. Needs openssl, and asks no cluster.
set -eu

folder=${1:?usage: make-dev-secrets.sh FOLDER [NAMESPACE]}
namespace=${2:-diptych}
days=30

umask 077
mkdir "$folder"
cd "$folder"

new_key() {
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"
}

# certificate NAME USAGE SAN: NAME/{tls.key,tls.crt,ca.crt}, signed by the authority. USAGE keeps a
# service's certificate from being taken for a caller's.
certificate() {
    mkdir "$1"
    new_key "$1/tls.key"
    openssl req -new -key "$1/tls.key" -subj "/O=diptych-dev/CN=$1" -out "$1/request.pem"
    printf 'basicConstraints=critical,CA:FALSE\nkeyUsage=critical,digitalSignature\nextendedKeyUsage=%s\nsubjectAltName=%s\n' \
        "$2" "$3" >"$1/extensions"
    openssl x509 -req -in "$1/request.pem" -CA authority/tls.crt -CAkey authority/tls.key \
        -days "$days" -extfile "$1/extensions" -out "$1/tls.crt" 2>/dev/null
    cp authority/tls.crt "$1/ca.crt"
    rm "$1/request.pem" "$1/extensions"
}

# secret KIND NAME FILE...: one document of secrets.yaml.
secret() {
    kind=$1 name=$2
    shift 2
    {
        printf 'apiVersion: v1\nkind: Secret\nmetadata: { name: %s, namespace: %s }\ntype: %s\ndata:\n' "$name" "$namespace" "$kind"
        for file in "$@"; do
            printf '  %s: %s\n' "$(basename "$file")" "$(base64 <"$file" | tr -d '\n')"
        done
        echo ---
    } >>secrets.yaml
}

tls_secret() {
    secret kubernetes.io/tls "$1" "$2/tls.crt" "$2/tls.key" "$2/ca.crt"
}

mkdir authority
new_key authority/tls.key
openssl req -x509 -key authority/tls.key -days "$days" -subj "/O=diptych-dev/CN=authority" \
    -addext "basicConstraints=critical,CA:TRUE,pathlen:0" \
    -addext "keyUsage=critical,keyCertSign,cRLSign" -out authority/tls.crt

for service in promptgen diffusion dialogue trainer eval redis; do
    certificate "$service" serverAuth \
        "DNS:$service,DNS:$service.$namespace,DNS:$service.$namespace.svc,DNS:$service.$namespace.svc.cluster.local,DNS:localhost,IP:127.0.0.1"
    tls_secret "$service-tls" "$service"
done
certificate client clientAuth "DNS:client.$namespace"
tls_secret client-tls client

openssl rand -hex 32 >token
secret Opaque service-token token

# Redis keeps the digest; the callers' URL has the password. The user may touch the suite's keys only.
mkdir access
password=$(openssl rand -hex 32)
digest=$(printf %s "$password" | openssl dgst -sha256 -r | cut -d ' ' -f 1)
printf 'user default off\nuser diptych on #%s resetchannels ~diptych:* -@all +@connection +@read +@write -@dangerous\n' "$digest" \
    >access/users.acl
printf 'rediss://diptych:%s@redis.%s.svc:6379/0' "$password" "$namespace" >access/url
secret Opaque redis-access access/users.acl access/url

echo "made $folder/secrets.yaml; apply it with: kubectl apply -f $folder/secrets.yaml"
