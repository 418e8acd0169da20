# Sourced by the scripts of distillation, which say before what they need: arguments="NAME ...". More words are options
# of distill.train.
words=any
source "$(dirname "${BASH_SOURCE[0]}")/../words.sh"
needed=($arguments) num_given=0
for word in "$@"; do
    [[ -n "$word" && "$word" != --* ]] || break
    num_given=$((num_given + 1))
done
[ "$num_given" -ge "${#needed[@]}" ] || {
    echo "$(basename "$0"): found $num_given arguments, expected $arguments; --help says what they are" >&2; exit 2; }

# The whole path of what is named from the folder that the caller stands in; what is missing is told by the command.
path_of() { realpath -m -- "$1"; }

# A data set named from the folder that the caller stands in: a path, which has a slash, as a whole path; a name, such
# as mnist or digits:5000, as it is.
dataset_of() {  # DATASET
    case "$1" in */*) path_of "$1" ;; *) printf '%s\n' "$1" ;; esac
}

# Sets real_images to the data set's option for distill.train, or to nothing where none of its other options uses real
# images: it refuses an option without effect. OPTION...: all others of that command, which are refused as it would.
find_real_images() {    # DATASET OPTION...
    local answer
    answer=$("$PYTHON" -c "import importlib.util, sys
from distill import options
from engine.command_line import run_script
sys.modules['__main__'].__spec__ = importlib.util.find_spec('distill.train')
run_script(lambda: print(options.uses_images(options.parse())))" "${@:2}") || return
    real_images=()
    [ "$answer" = False ] || real_images=(--dataset "$1")
}

# `trained` counts a training that has run from START (seconds) on, and says how long the others of NUM_TRAININGS will
# take at its pace; `was_there` takes one that was finished before off that number. NUM_TRAINED: of those before this
# script.
num_trained="${NUM_TRAINED:-0}"
trained() {     # START
    num_trained=$((num_trained + 1))
    local took=$((SECONDS - $1)) left=$((NUM_TRAININGS - num_trained))
    echo "training $num_trained of $NUM_TRAININGS took $(((took + 30) / 60)) min ($took s);" \
        "about $((((took * left) + 59) / 60)) min for the $left others"
}
was_there() { NUM_TRAININGS=$((NUM_TRAININGS - 1)); }
