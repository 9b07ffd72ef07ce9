/* Which tarn this is. */
#ifndef TARN_BASE_VERSION_H
#define TARN_BASE_VERSION_H

/* "0.1.0". Processes of different versions refuse each other. */
extern const char tarn_version[];

#endif
