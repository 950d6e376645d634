#!/bin/sh
# Makes the certificates of this folder with openssl, which signs with algorithms that the tests' own library does not.
set -eu
cd "$(dirname "$0")"
openssl req -x509 -newkey rsa:2048 -nodes -keyout ca.key -sha1 -days 36500 -subj "/O=Example/CN=Old TPM Root" \
    -addext "keyUsage=critical,keyCertSign" -out root-sha1.pem 2> /dev/null
openssl ecparam -name prime256v1 -genkey -noout -out ek.key
cat > ek.cnf <<CNF
basicConstraints = critical, CA:FALSE
keyUsage = critical, keyAgreement
extendedKeyUsage = 2.23.133.8.1
authorityKeyIdentifier = keyid
subjectAltName = critical, dirName:maker
[maker]
1.2.23.133.2.1 = id:45575400
2.2.23.133.2.2 = forge
CNF
openssl req -new -key ek.key -subj "/" -out ek.csr
sign() { # name, options
    name=$1
    shift
    openssl x509 -req -in ek.csr -CA root-sha1.pem -CAkey ca.key -CAcreateserial -days 36500 \
        -extfile ek.cnf "$@" -out "leaf-$name.pem" 2> /dev/null
}
sign sha1 -sha1
sign sha384 -sha384
sign sha512 -sha512
sign pss-sha256 -sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest
sign pss-sha384 -sha384 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest
sign pss-sha512 -sha512 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:digest
sign pss-salt-8 -sha256 -sigopt rsa_padding_mode:pss -sigopt rsa_pss_saltlen:8
sign md5 -md5
openssl req -x509 -newkey rsa:1024 -nodes -keyout short.key -sha256 -days 36500 -subj "/O=Example/CN=Short TPM Root" \
    -addext "keyUsage=critical,keyCertSign" -out root-1024.pem 2> /dev/null
openssl x509 -req -in ek.csr -CA root-1024.pem -CAkey short.key -CAcreateserial -days 36500 -extfile ek.cnf \
    -out leaf-1024.pem 2> /dev/null
openssl crl2pkcs7 -nocrl -certfile root-sha1.pem -certfile root-1024.pem -outform DER -out roots.p7b
openssl crl2pkcs7 -nocrl -certfile root-sha1.pem -certfile root-1024.pem -out roots-p7b.pem
rm -f ca.key short.key ek.key ek.csr ek.cnf ./*.srl
