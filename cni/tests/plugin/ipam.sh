#!/bin/sh
# A scripted IPAM plugin: remembers each call beside its own (linked) name, answers what lies there.
dir=$(dirname "$0")
echo "$CNI_COMMAND $CNI_CONTAINERID" >> "$dir/called"
cat > "$dir/input.$CNI_COMMAND"
env | grep ^CNI_ | sort > "$dir/environment.$CNI_COMMAND"
if [ -f "$dir/fail.$CNI_COMMAND" ]; then
    grep -q '^sleep' "$dir/fail.$CNI_COMMAND" && exec sleep 1000
    cat "$dir/fail.$CNI_COMMAND"
    exit 1
fi
[ "$CNI_COMMAND" = ADD ] && cat "$dir/result"
exit 0
