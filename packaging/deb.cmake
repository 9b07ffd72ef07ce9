# What Debian wants of a package's tree beyond what `cmake --install` makes: run by CPack on the tree, before it packs it.
set(doc ${CPACK_TEMPORARY_DIRECTORY}/usr/share/doc/tarn)

# The program has luv in it, linked statically.
file(READ ${doc}/LICENSE text)
string(REGEX MATCH "Copyright [^\n]*" holder "${text}")
string(REGEX REPLACE "^Copyright \\(c\\) " "" holder "${holder}")
string(REGEX REPLACE "^.*\nCopyright [^\n]*\n\n" "" text "${text}")
string(REGEX REPLACE "\n\n" "\n.\n" text "${text}")
string(STRIP "${text}" text)
string(REGEX REPLACE "\n" "\n " text "${text}")
file(WRITE ${doc}/copyright "Format: https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/
Upstream-Name: tarn

Files: *
Copyright: ${holder}
License: Expat

Files: usr/bin/tarn
Copyright: ${holder}, and The Luvit Authors, of the parts that are luv
License: Expat and Apache-2.0

License: Expat
 ${text}

License: Apache-2.0
 On Debian systems the text is in /usr/share/common-licenses/Apache-2.0.
")
file(REMOVE ${doc}/LICENSE)

# A changelog in Debian's form, of the package; what has changed in tarn is CHANGELOG.md.
string(TIMESTAMP date "%a, %d %b %Y %H:%M:%S +0000" UTC)
file(WRITE ${doc}/changelog "tarn (${CPACK_PACKAGE_VERSION}) unstable; urgency=medium

  * Built from the sources of this version: see CHANGELOG.md.

 -- ${CPACK_PACKAGE_CONTACT}  ${date}
")
execute_process(COMMAND gzip -9n ${doc}/changelog ${CPACK_TEMPORARY_DIRECTORY}/usr/share/man/man1/tarn.1 COMMAND_ERROR_IS_FATAL ANY)
