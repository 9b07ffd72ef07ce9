/* Under which sanitizer this is compiled, if any: gcc and clang say so in ways of their own. */
#ifndef TARN_BASE_SANITIZERS_H
#define TARN_BASE_SANITIZERS_H

#ifdef __has_feature
#if __has_feature(thread_sanitizer)
#define TARN_UNDER_TSAN 1
#endif
#if __has_feature(address_sanitizer)
#define TARN_UNDER_ASAN 1
#endif
#endif
#ifdef __SANITIZE_THREAD__
#define TARN_UNDER_TSAN 1
#endif
#ifdef __SANITIZE_ADDRESS__
#define TARN_UNDER_ASAN 1
#endif

#endif
