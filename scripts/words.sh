# Sourced before an environment is made. A script may say before which words it takes: words="NAME ...", "any", or ""
# for none. Then --help or -h prints its head comment, and another word is refused.
if [ -n "${words+set}" ]; then
    for word in "$@"; do
        case "$word" in --help | -h) sed -n '2,${/^#/!q;s/^# \{0,1\}//p}' "$0"; exit 0 ;; esac
    done
    for word in "$@"; do
        [[ "$words" = any || " $words " = *" $word "* ]] || {
            expected="${words:+some of: $words}"
            echo "$(basename "$0"): found $word, expected ${expected:-no words}; --help says what it does" >&2
            exit 2; }
    done
fi

# Settings that a script itself counts with or goes through are looked at by it.
expect_numbers() {      # LEAST NAME...: each a list of one number at least
    local name word words
    for name in "${@:2}"; do
        read -r -a words <<< "${!name}"
        for word in "${words[@]:-nothing}"; do
            [[ "$word" =~ ^(0|[1-9][0-9]{0,8})$ && "$word" -ge "$1" ]] ||
                refuse "$name" "$word" "whole numbers of at least $1"
        done
    done
}
expect_some_of() {      # "WORD ..." NAME...: each a list, perhaps of nothing
    local name word words
    for name in "${@:2}"; do
        read -r -a words <<< "${!name}"
        for word in "${words[@]}"; do [[ " $1 " = *" $word "* ]] || refuse "$name" "$word" "some of: $1"; done
    done
}
refuse() { echo "$(basename "$0"): $1: found $2, expected $3" >&2; exit 2; }    # NAME FOUND EXPECTED
