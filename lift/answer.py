"""What a reader should do, in three sentences. They stand at the top of README, study and report, word for word."""

QUESTION = "One time or two?"
ANSWER = ("Use one time: one noise level for the whole image at every step, not one for each scale. On digits, at "
          "equal steps, arithmetic and calls, each of five seeds of one time draws better than every seed of two "
          "scales, however their times are drawn (at six calls but one), and two bands of one image with a time each "
          "are level with it. On photographs it is not decided: by fd_tiny, an earlier Fréchet distance, one time "
          "draws better, by SWD, the sliced Wasserstein distance, two times with a lead do.")
