#include "tools/cli/print.h"

#include "formats/memory.h"
#include "formats/utf8.h"

#include <stdint.h>
#include <string.h>

enum { SPEC_BYTES = 64 };

/* One conversion: "%-*.3lld" with its stars resolved, but without length and conversion. */
typedef struct spec {
    char text[SPEC_BYTES];
    size_t used;
    int precision; /* -1 for none */
    char length;   /* 0, 'h' (also hh), 'l', 'q' (ll), 'z', 'j', 't', 'L' */
    char conversion;
} spec;

static void append(spec *s, const char *text, size_t size) {
    if (s->used + size + 4 < SPEC_BYTES) { /* room for length and conversion */
        memcpy(s->text + s->used, text, size);
        s->used += size;
    }
}

static void append_number(spec *s, int number) {
    char digits[16];
    append(s, digits, (size_t)snprintf(digits, sizeof digits, "%d", number));
}

static const char *take_digits(spec *s, const char *at) {
    const size_t digits = strspn(at, "0123456789");
    append(s, at, digits);
    return at + digits;
}

/* Reads what follows a '%'; returns what is behind it. `arguments`: a va_list. */
static const char *read_spec(spec *s, const char *at, va_list *arguments) {
    const size_t flags = strspn(at, "-+ #0'");
    *s = (spec){.text = "%", .used = 1, .precision = -1};
    append(s, at, flags);
    at += flags;
    if (*at == '*') {
        append_number(s, va_arg(*arguments, int));
        at++;
    } else {
        at = take_digits(s, at);
    }
    if (*at == '.') {
        at++;
        if (*at == '*') {
            s->precision = va_arg(*arguments, int);
            at++;
        } else {
            s->precision = 0;
            for (; *at >= '0' && *at <= '9'; at++)
                s->precision = 10 * s->precision + (*at - '0');
        }
    }
    if (at[0] == 'l' && at[1] == 'l') {
        s->length = 'q';
        at += 2;
    } else if (at[0] == 'h') {
        s->length = 'h';
        at += at[1] == 'h' ? 2 : 1;
    } else if (*at && strchr("lzjtL", *at)) {
        s->length = *at++;
    }
    s->conversion = *at;
    return *at ? at + 1 : at;
}

static void finish(spec *s, const char *length, char conversion, int precise) {
    if (precise && s->precision >= 0) {
        append(s, ".", 1);
        append_number(s, s->precision);
    }
    append(s, length, strlen(length));
    s->text[s->used] = conversion;
    s->text[s->used + 1] = '\0';
}

static void put_text(FILE *stream, spec *s, const char *text) {
    const char *const given = text ? text : "(null)";
    const size_t size = s->precision >= 0 ? strnlen(given, (size_t)s->precision) : strlen(given);
    char *shown = ousac_malloc(size + 1, 1);
    finish(s, "", 's', 0);
    if (shown)
        (void)ousac_utf8_show(given, size, shown, size + 1);
    (void)fprintf(stream, s->text, shown ? shown : "?");
    ousac_free(shown);
}

static void put_signed(FILE *stream, spec *s, va_list *arguments) {
    const intmax_t value = s->length == 'l'                       ? va_arg(*arguments, long)
                           : s->length == 'q'                     ? va_arg(*arguments, long long)
                           : s->length == 'z' || s->length == 't' ? va_arg(*arguments, ptrdiff_t)
                           : s->length == 'j'                     ? va_arg(*arguments, intmax_t)
                                                                  : va_arg(*arguments, int);
    finish(s, "j", s->conversion, 1);
    (void)fprintf(stream, s->text, value);
}

static void put_unsigned(FILE *stream, spec *s, va_list *arguments) {
    const uintmax_t value = s->length == 'l'                       ? va_arg(*arguments, unsigned long)
                            : s->length == 'q'                     ? va_arg(*arguments, unsigned long long)
                            : s->length == 'z' || s->length == 't' ? va_arg(*arguments, size_t)
                            : s->length == 'j'                     ? va_arg(*arguments, uintmax_t)
                                                                   : va_arg(*arguments, unsigned);
    finish(s, "j", s->conversion, 1);
    (void)fprintf(stream, s->text, value);
}

static void put_conversion(FILE *stream, spec *s, va_list *arguments) {
    char one[2] = "";
    switch (s->conversion) {
    case 'd':
    case 'i':
        put_signed(stream, s, arguments);
        return;
    case 'u':
    case 'x':
    case 'X':
    case 'o':
        put_unsigned(stream, s, arguments);
        return;
    case 'c':
        one[0] = (char)va_arg(*arguments, int);
        put_text(stream, s, one);
        return;
    case 's':
        put_text(stream, s, va_arg(*arguments, const char *));
        return;
    case 'p':
        finish(s, "", 'p', 0);
        (void)fprintf(stream, s->text, va_arg(*arguments, void *));
        return;
    case '%':
        (void)fputc('%', stream);
        return;
    default: /* a floating conversion; the attribute lets nothing else through */
        finish(s, s->length == 'L' ? "L" : "", s->conversion, 1);
        if (s->length == 'L')
            (void)fprintf(stream, s->text, va_arg(*arguments, long double));
        else
            (void)fprintf(stream, s->text, va_arg(*arguments, double));
        return;
    }
}

void cli_vfprintf(FILE *stream, const char *format, va_list given) {
    va_list arguments;
    va_copy(arguments, given);
    while (*format) {
        const size_t plain = strcspn(format, "%");
        (void)fwrite(format, 1, plain, stream);
        format += plain;
        if (*format == '%') {
            spec s;
            format = read_spec(&s, format + 1, &arguments);
            put_conversion(stream, &s, &arguments);
        }
    }
    va_end(arguments);
}

void cli_fprintf(FILE *stream, const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    cli_vfprintf(stream, format, arguments);
    va_end(arguments);
}

void cli_printf(const char *format, ...) {
    va_list arguments;
    va_start(arguments, format);
    cli_vfprintf(stdout, format, arguments);
    va_end(arguments);
}
