// Products of a few rows, for formats with a codebook.

#include "formats_iq.cuh"
#include "mmv_i8.cuh"

MMV_I8(iq1_s, Iq1S)
MMV_I8(iq1_m, Iq1M)
MMV_I8(iq2_xxs, Iq2Xxs)
MMV_I8(iq2_xs, Iq2Xs)
MMV_I8(iq2_s, Iq2S)
MMV_I8(iq3_xxs, Iq3Xxs)
MMV_I8(iq3_s, Iq3S)
