#!/bin/sh
# Asks a language model's server from a shell.
#
#   sh examples/client.sh curl       its REST API; the server has --rest_api_port=8501
#   sh examples/client.sh grpcurl    its gRPC port; the server has --enable_grpc_reflection
#
# MODEL, TEXT, REST and GRPC name another model, text or address. A server without reflection, as
# the official one, is asked with GRPCURL_FLAGS="-plaintext -protoset export/client/serving.binpb".
set -eu
MODEL=${MODEL:-quick}
TEXT=${TEXT:-def main(}
REST=${REST:-http://localhost:8501}
GRPC=${GRPC:-localhost:8500}
GRPCURL_FLAGS=${GRPCURL_FLAGS:--plaintext}

# Strings are bytes; in JSON they are written in base64.
BASE64=$(printf %s "$TEXT" | base64 | tr -d '\n')

get() {
    curl --silent --show-error --fail-with-body --write-out '\n' "$@"
}

ask_with_curl() {
    echo "--- status"
    get "$REST/v1/models/$MODEL"

    echo "--- signatures"
    get "$REST/v1/models/$MODEL/metadata"

    echo "--- score: a value for each row"
    get "$REST/v1/models/$MODEL:predict" --data '{
        "signature_name": "score",
        "instances": [{"text": {"b64": "'"$BASE64"'"}}, {"text": "plain text is good, too"}]
    }'

    echo "--- the default signature: a text"
    get "$REST/v1/models/$MODEL:predict" --data '{"instances": ["plain text"]}'

    # Over REST, TensorFlow Serving knows no defaults: of a signature with options all must be there.
    echo "--- generate: a list for each input"
    get "$REST/v1/models/$MODEL:predict" --data '{
        "signature_name": "generate",
        "inputs": {
            "text": [{"b64": "'"$BASE64"'"}],
            "max_new_tokens": [20],
            "temperature": [0.8],
            "top_k": [0],
            "top_p": [1.0],
            "min_p": [0.0],
            "repetition_penalty": [1.0],
            "stop": [["\n\n", "", "", ""]],
            "seed": [7]
        }
    }'
}

ask_with_grpcurl() {
    echo "--- services"
    # shellcheck disable=SC2086  the flags are several words
    grpcurl $GRPCURL_FLAGS "$GRPC" list

    echo "--- status"
    # shellcheck disable=SC2086
    grpcurl $GRPCURL_FLAGS -d '{"model_spec": {"name": "'"$MODEL"'"}}' \
        "$GRPC" tensorflow.serving.ModelService/GetModelStatus

    # Inputs that are left out have the signature's defaults. Strings in the answer are base64, too.
    echo "--- generate"
    # shellcheck disable=SC2086
    grpcurl $GRPCURL_FLAGS -d '{
        "model_spec": {"name": "'"$MODEL"'", "signature_name": "generate"},
        "inputs": {
            "text": {
                "dtype": "DT_STRING",
                "tensor_shape": {"dim": [{"size": 1}]},
                "string_val": ["'"$BASE64"'"]
            },
            "max_new_tokens": {
                "dtype": "DT_INT32",
                "tensor_shape": {"dim": [{"size": 1}]},
                "int_val": [20]
            }
        },
        "output_filter": ["text", "token_count"]
    }' "$GRPC" tensorflow.serving.PredictionService/Predict
}

case ${1:-} in
curl) ask_with_curl ;;
grpcurl) ask_with_grpcurl ;;
*)
    echo "usage: sh examples/client.sh curl|grpcurl" >&2
    exit 2
    ;;
esac
