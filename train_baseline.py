#!/usr/bin/env python3
"""Train the single-scale baseline: one image at 64x64, one timestep, mean squared error of the noise prediction."""
from engine.command_line import Parser, run_script
from lift.options import add_training_options, parse_training_options


def parse_args(argv=None):
    parser = Parser(__doc__)
    add_training_options(parser, "baseline")
    return parse_training_options(parser, argv)


def main():
    args = parse_args()
    from engine.loop import train
    from lift.tasks import scale_task
    train(scale_task("baseline"), args)


if __name__ == "__main__":
    run_script(main)
