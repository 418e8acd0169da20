# Sourced by scripts of several trainings. `trained` counts one that has run from START (seconds) on, and says how long
# the others of NUM_TRAININGS will take at its pace. NUM_TRAINED: of those before this script.
num_trained="${NUM_TRAINED:-0}"
trained() {     # START
    num_trained=$((num_trained + 1))
    local took=$((SECONDS - $1)) left=$((NUM_TRAININGS - num_trained))
    echo "training $num_trained of $NUM_TRAININGS took $(((took + 30) / 60)) min ($took s);" \
        "about $((((took * left) + 59) / 60)) min for the $left others"
}
