"""Numbers of the papers, and numbers computed once in float64 from their formulas, each with its source."""

import math

# 2206.00364, eq. 5 with N = 18, sigma 0.002 to 80, rho 7, descending.
KARRAS_18 = [80, 57.58598, 40.78557, 28.37458, 19.35245, 12.91008, 8.400935, 5.315195, 3.256822, 1.92334]
KARRAS_18 += [1.088171, 0.5853481, 0.2964423, 0.1395165, 0.05994731, 0.02293452, 0.00752802, 0.002]

# The same, N = 11, ascending.
KARRAS_11 = [0.002, 0.01672075323, 0.08508720269, 0.3182832888, 0.9654169263, 2.515218976]
KARRAS_11 += [5.838947631, 12.38157614, 24.40834179, 45.31373408, 80]

# 2310.14189, eq. 10: mass of the cells of KARRAS_11 under P_mean -1.1, P_std 2.
MASS_11 = [0.062632993, 0.18173698, 0.24550142, 0.21349445, 0.14244606]
MASS_11 += [0.080604622, 0.041079906, 0.019580092, 0.0089438684, 0.0039796122]

# 2310.14189: 1/(sigma_{i+1} - sigma_i) on KARRAS_11.
INVERSE_GAPS_11 = [67.931307, 14.627058, 4.2882366, 1.5452759, 0.64524369]
INVERSE_GAPS_11 += [0.30086692, 0.15284377, 0.083147874, 0.047834548, 0.028829855]

# The mean of those weights under the mass, at N = 11, 21, ..., 1281.
MEAN_WEIGHT = [8.4203, 17.453, 35.192, 70.525, 141.12, 282.27, 564.56, 1129.1]

# 2303.01469, app. C with s0 = 2, s1 = 150: k/K -> N, and the target's decay for mu0 = 0.9.
SQUARE_ROOT = {0: 2, 0.001: 6, 0.01: 16, 0.05: 34, 0.1: 48, 0.25: 76, 0.5: 107, 0.75: 131, 1: 151}
PAPER_MU = {0: 0.9, 0.001: 0.965489, 0.01: 0.986916, 0.05: 0.993821, 0.1: 0.995620}
PAPER_MU |= {0.25: 0.997231, 0.5: 0.998033, 0.75: 0.998393, 1: 0.998605}

# 2310.14189, eq. 7 with s0 = 10, s1 = 1280.
DOUBLING = [11, 21, 41, 81, 161, 321, 641, 1281]

# (c_skip, c_out) of 2303.01469, app. C, with sigma_data 0.5 and epsilon 0.002; and of 2206.00364, table 1.
BOUNDARY = {0.5: (0.502004, 0.352139), 0.821: (0.271514541, 0.425998711), 80.0: (3.90629e-6, 0.499977735)}
EDM_80 = (3.90610e-5, 0.499990235)

# 2206.00364, table 1: lambda(sigma) for sigma_data 0.5.
EDM_WEIGHT = {0.002: 250004, 0.5: 8, 1: 5, 80: 4.00016}

# Pseudo-Huber on the norm of the whole image, c = 0.00054 sqrt(3072): norm of the difference -> distance.
HUBER_C = 0.0299298379547902
HUBER = {0.01: 0.00162638, 1.0: 0.97051796, 10.0: 9.97011495}

# End of the probability-flow ODE from x = 80 at sigma 80 for Gaussian data N(0, v^2):
# v -> exact, Heun with 18 levels, Heun with 40, Euler with 18.
GAUSSIAN_END = {
    0.5: (0.499990235, 0.527624637, 0.504876865, 0.423031436),
    1.0: (0.999921884, 1.044728840, 1.007901110, 0.859455425),
    0.1: (0.099999922, 0.109017071, 0.101551161, 0.081025047),
}

# The same from x = 24 for the two-point mixture: Heun with 18 and with 4000 levels.
MIXTURE_END = {18: 0.939594018, 4000: 0.928028221}


def mixture_denoiser(x: float, sigma: float, s: float = 0.1) -> float:
    """E[x_0 | x] for the mixture N(-1, s^2)/2 + N(1, s^2)/2, written with tanh."""
    total = s**2 + sigma**2
    return (s**2 * x + sigma**2 * math.tanh(x / total)) / total


# One step of 2303.01469, algorithm 2, from sigma 3.256822 to 1.923340 of KARRAS_18 for data N(0, .5²): the
# start, and for each solver where it ends and how far the exact consistency function moves.
PAIR_START = 3.29497897
PAIR_EULER = (1.97693965, -2.599e-3)
PAIR_HEUN = (1.99402085, 1.699e-3)

# 2406.14548 with q = 2, k = 8, b = 1: r/t at t = .1, 1, 80, in the first and in the eighth stage.
MAPPED = {0: (0.0, 0.0, 0.5), 7: (0.981249, 0.987689, 0.996094)}
