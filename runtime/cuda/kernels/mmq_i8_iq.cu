// Products of many rows, for formats with a codebook.

#include "formats_iq.cuh"
#include "mmq_i8.cuh"

MMQ_I8(iq1_s, Iq1S)
MMQ_I8(iq1_m, Iq1M)
MMQ_I8(iq2_xxs, Iq2Xxs)
MMQ_I8(iq2_xs, Iq2Xs)
MMQ_I8(iq2_s, Iq2S)
MMQ_I8(iq3_xxs, Iq3Xxs)
MMQ_I8(iq3_s, Iq3S)
