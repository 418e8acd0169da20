"""The demo with text to image chosen: python -m demo.text_to_image_sdxl."""
from demo.__main__ import main
from engine.command_line import run_script

if __name__ == "__main__":
    run_script(lambda: main("text_to_image"))
