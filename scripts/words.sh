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
