#!/bin/sh
# Makes the certificates of test_server_tls.py anew: two authorities; a server and a client of the
# first, a client of the second. They last 100 years and guard nothing.
set -eu
cd "$(dirname "$0")"
for authority in ca stranger_ca; do
    openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 36500 \
        -subj "/CN=$authority" -keyout $authority.key -out $authority.pem
done
sign() {  # name authority
    openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -subj "/CN=$1" \
        -keyout "$1.key" -out "$1.csr"
    printf 'subjectAltName=DNS:localhost,IP:127.0.0.1\n' > extensions
    openssl x509 -req -in "$1.csr" -CA "$2.pem" -CAkey "$2.key" -CAcreateserial -days 36500 \
        -extfile extensions -out "$1.pem"
}
sign server ca
sign client ca
sign stranger stranger_ca
rm -f ./*.csr ./*.srl extensions ca.key stranger_ca.key stranger_ca.pem
