#!/bin/sh
# Convert what other tools export to JSON lines for `ernie-m fit` (labels of texts) and `ernie-m train` (pairs). Needs jq.
#
#   sh examples/to_jsonl.sh label-studio export.json > labels.jsonl
#   sh examples/to_jsonl.sh doccano export.jsonl > labels.jsonl
#   sh examples/to_jsonl.sh prodigy export.jsonl > labels.jsonl
#   sh examples/to_jsonl.sh llama-index dataset.json > pairs.jsonl
#
# Rows without exactly one label are left out, and counted on standard error.
set -eu
labeled='(map(select(one | not)) | "\(length) left out\n" | stderr | empty), (.[] | select(one) | {text, label: .label[0]})'
case ${1-} in
    label-studio)
        jq -c "def one: .label | length == 1;
            map({text: .data.text,
                label: [.annotations[] | select(.was_cancelled | not).result[].value.choices[]?] | unique}) | $labeled" "$2"
        ;;
    doccano) jq -cs "def one: .label | length == 1; $labeled" "$2" ;;
    prodigy)
        jq -cs "def one: .answer == \"accept\" and (.accept | length == 1); map(. + {label: .accept}) | $labeled" "$2"
        ;;
    llama-index)
        jq -c '. as $all | .queries | to_entries[]
            | {query: .value, pos: [$all.corpus[$all.relevant_docs[.key][]]]}' "$2"
        ;;
    *)
        echo "error: sh examples/to_jsonl.sh label-studio, doccano, prodigy or llama-index, then a file" >&2
        exit 2
        ;;
esac
