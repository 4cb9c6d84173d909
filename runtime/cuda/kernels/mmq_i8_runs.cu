// Products of many rows, for formats with blocks of 32 values and for NVFP4.

#include "mmq_i8.cuh"

MMQ_I8(q4_0, Q4_0)
MMQ_I8(q4_1, Q4_1)
MMQ_I8(q5_0, Q5_0)
MMQ_I8(q5_1, Q5_1)
MMQ_I8(q8_0, Q8_0)
MMQ_I8(mxfp4, Mxfp4)
MMQ_I8(nvfp4, Nvfp4)
MMQ_I8(iq4_nl, Iq4Nl)
