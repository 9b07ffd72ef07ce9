/* Finding libcurl: that over OpenSSL, which is ours too, else that over GnuTLS. Once loaded it stays. */
#include <dlfcn.h>
#include <stddef.h>
#include <string.h>
#include "net/curl-private.h"

static void *open_library(void) {
  static const char *const names[] = {"libcurl.so.4", "libcurl-gnutls.so.4"};
  void *library = NULL;
  for (size_t i = 0; library == NULL && i < sizeof names / sizeof names[0]; i++) {
    library = dlopen(names[i], RTLD_NOW | RTLD_LOCAL);
  }
  return library;
}

int tarn__curl_load(tarn__curl_t *curl, tarn_error_t *err) {
  static const struct {
    const char *name;
    size_t at;
  } names[] = {{"curl_global_init", offsetof(tarn__curl_t, global_init)},
               {"curl_easy_init", offsetof(tarn__curl_t, easy_init)},
               {"curl_easy_cleanup", offsetof(tarn__curl_t, easy_cleanup)},
               {"curl_easy_setopt", offsetof(tarn__curl_t, easy_setopt)},
               {"curl_easy_getinfo", offsetof(tarn__curl_t, easy_getinfo)},
               {"curl_easy_strerror", offsetof(tarn__curl_t, easy_strerror)},
               {"curl_slist_append", offsetof(tarn__curl_t, slist_append)},
               {"curl_slist_free_all", offsetof(tarn__curl_t, slist_free_all)},
               {"curl_multi_init", offsetof(tarn__curl_t, multi_init)},
               {"curl_multi_cleanup", offsetof(tarn__curl_t, multi_cleanup)},
               {"curl_multi_setopt", offsetof(tarn__curl_t, multi_setopt)},
               {"curl_multi_add_handle", offsetof(tarn__curl_t, multi_add_handle)},
               {"curl_multi_remove_handle", offsetof(tarn__curl_t, multi_remove_handle)},
               {"curl_multi_socket_action", offsetof(tarn__curl_t, multi_socket_action)},
               {"curl_multi_info_read", offsetof(tarn__curl_t, multi_info_read)}};
  void *library = open_library();
  if (library == NULL) {
    return tarn_error_set(
        err, TARN_EIO,
        "s3:// is libcurl's, which is not installed (libcurl.so.4; Debian: libcurl4)");
  }
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    void *symbol = dlsym(library, names[i].name);
    if (symbol == NULL) {
      return tarn_error_set(err, TARN_EIO, "the libcurl that is installed lacks %s", names[i].name);
    }
    memcpy((char *)curl + names[i].at, &symbol, sizeof symbol);
  }
  if (curl->global_init(CURL_GLOBAL_DEFAULT) != CURLE_OK) {
    return tarn_error_set(err, TARN_EIO, "libcurl cannot be initialized");
  }
  return 0;
}
