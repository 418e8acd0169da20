"""The demo with students of few steps chosen, as ImageNet's are: python -m demo.imagenet_example."""
from demo.__main__ import main
from engine.command_line import run_script

if __name__ == "__main__":
    run_script(lambda: main("distilled"))
