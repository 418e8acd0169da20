"""What a reader should do, in three sentences. They stand at the top of README, study and report, word for word."""

QUESTION = "One time or two?"
ANSWER = ("Use one time: one noise level for the whole image at every step, not one for each scale. On digits, at "
          "equal steps, arithmetic and calls, all of five seeds of one time draw better than all of two scales whose "
          "times are independent, near each other or fused, by both measures from nine calls on, better by one measure "
          "than two scales at equal times, and level with two bands of one image that have a time each. On "
          "photographs it is not decided: after six epochs of small models, one seed, one time draws better by "
          "fd_lite0, a Fréchet distance, and two times with a lead do by SWD, the sliced Wasserstein distance.")
