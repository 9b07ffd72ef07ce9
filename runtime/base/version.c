/* See version.h. In a file of its own, so that it stands in the program once. */
#include "base/version.h"

const char tarn_version[] = TARN_VERSION;
