/* The one way in which commands print text: whatever a file, a path or an option holds, a terminal shows it and obeys
 * nothing in it.
 */
#ifndef OUSAC_CLI_PRINT_H
#define OUSAC_CLI_PRINT_H

#include <stdarg.h>
#include <stdio.h>

/* printf, with every text that %s and %c bring made safe by ousac_utf8_show: one line of UTF-8 without controls. The
 * format's own line feeds stay. Knows the conversions d i u x X o c s e E f F g G a A p %, not n and not wide text. */
void cli_printf(const char *format, ...) __attribute__((format(printf, 1, 2)));
void cli_fprintf(FILE *stream, const char *format, ...) __attribute__((format(printf, 2, 3)));
void cli_vfprintf(FILE *stream, const char *format, va_list arguments) __attribute__((format(printf, 2, 0)));

#endif
