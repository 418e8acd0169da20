"""What a reader should do, and why, in a paragraph. It stands at the top of README, study and report, word for word."""

QUESTION = "One time or two?"
ANSWER = ("Use one time: one noise level for the whole image at every step, not one for each scale. On digits, "
          "models of each kind had five seeds, equal training, and equal arithmetic and network calls an image. "
          "From nine calls on, every model with one time draws better than every one with two scales whose times "
          "are independent, near each other or fused, by both measures. Where two scales were trained at equal "
          "times, one measure says the same and the other does not decide. Two bands of one image, its 2×2 mean and "
          "the rest with a time each, are level with one time. On photographs it is not decided: after six epochs "
          "of small models, two seeds, one time is level with two bands at equal times, and with two scales trained "
          "on fused leads and sampled with a lead of 1, so that the half-size image is denoised first. By fd_lite0, a "
          "Fréchet distance, one time is behind both by a little; by SWD, the sliced Wasserstein distance, its two "
          "seeds are as far apart as the models are.")
