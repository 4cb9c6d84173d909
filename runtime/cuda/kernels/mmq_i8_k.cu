// Products of many rows, for formats with blocks of 256 values and integer scales.

#include "formats_k.cuh"
#include "mmq_i8.cuh"

MMQ_I8(q2_k, Q2_K)
MMQ_I8(q3_k, Q3_K)
MMQ_I8(q4_k, Q4_K)
MMQ_I8(q5_k, Q5_K)
MMQ_I8(q6_k, Q6_K)
MMQ_I8(iq4_xs, Iq4Xs)
