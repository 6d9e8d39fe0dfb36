/* printf with what the guests use: d u x p s c and %, the l modifier, '#', '0', '-', width and precision of strings. */
#include "runtime.h"

struct sink {
    char *buffer;
    size_t size, used;
};

static void put(struct sink *sink, char c)
{
    if (sink->used + 1 < sink->size)
        sink->buffer[sink->used] = c;
    sink->used++;
}

static void pad(struct sink *sink, char c, int n)
{
    while (n-- > 0)
        put(sink, c);
}

struct field {
    bool left, zero, alternate;
    int width, precision;
};

static void put_text(struct sink *sink, const struct field *field, const char *prefix, const char *text, int length)
{
    int fill = field->width - (int)strlen(prefix) - length;
    if (!field->left && !field->zero)
        pad(sink, ' ', fill);
    while (*prefix)
        put(sink, *prefix++);
    if (!field->left && field->zero)
        pad(sink, '0', fill);
    for (int i = 0; i < length; i++)
        put(sink, text[i]);
    if (field->left)
        pad(sink, ' ', fill);
}

static void put_number(struct sink *sink, const struct field *field, const char *prefix, unsigned long value, unsigned base)
{
    char digits[24];
    int at = sizeof(digits);
    do
        digits[--at] = "0123456789abcdef"[value % base];
    while (value /= base);
    put_text(sink, field, prefix, digits + at, (int)sizeof(digits) - at);
}

static int read_int(const char **format, va_list *args)
{
    int value = 0;
    if (**format == '*') {
        ++*format;
        return va_arg(*args, int);
    }
    while (**format >= '0' && **format <= '9')
        value = value * 10 + *(*format)++ - '0';
    return value;
}

static void put_directive(struct sink *sink, const char **format, va_list *args)
{
    struct field field = {.precision = -1};
    for (;; ++*format) {
        if (**format == '-')
            field.left = true;
        else if (**format == '0')
            field.zero = true;
        else if (**format == '#')
            field.alternate = true;
        else
            break;
    }
    field.width = read_int(format, args);
    if (**format == '.') {
        ++*format;
        field.precision = read_int(format, args);
    }
    bool is_long = false;
    for (; **format == 'l' || **format == 'z'; ++*format)
        is_long = true;
    char kind = *(*format)++;
    switch (kind) {
    case 'd': {
        long value = is_long ? va_arg(*args, long) : va_arg(*args, int);
        put_number(sink, &field, value < 0 ? "-" : "", value < 0 ? -(unsigned long)value : (unsigned long)value, 10);
        break;
    }
    case 'u':
    case 'x': {
        unsigned long value = is_long ? va_arg(*args, unsigned long) : va_arg(*args, unsigned);
        put_number(sink, &field, kind == 'x' && field.alternate && value ? "0x" : "", value, kind == 'x' ? 16 : 10);
        break;
    }
    case 'p':
        put_number(sink, &field, "0x", (unsigned long)va_arg(*args, void *), 16);
        break;
    case 's': {
        const char *text = va_arg(*args, const char *);
        int length = 0;
        while ((field.precision < 0 || length < field.precision) && text[length])
            length++;
        field.zero = false;
        put_text(sink, &field, "", text, length);
        break;
    }
    case 'c':
        put(sink, (char)va_arg(*args, int));
        break;
    default:
        put(sink, kind);
    }
}

int vsnprintf(char *buffer, size_t size, const char *format, va_list args)
{
    struct sink sink = {buffer, size, 0};
    va_list copy;
    va_copy(copy, args);
    while (*format) {
        if (*format != '%') {
            put(&sink, *format++);
        } else {
            format++;
            put_directive(&sink, &format, &copy);
        }
    }
    va_end(copy);
    if (size)
        buffer[sink.used < size ? sink.used : size - 1] = '\0';
    return (int)sink.used;
}

int snprintf(char *buffer, size_t size, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int length = vsnprintf(buffer, size, format, args);
    va_end(args);
    return length;
}

void printf(const char *format, ...)
{
    static char plain[2048], wired[2 * sizeof(plain)];
    va_list args;
    va_start(args, format);
    vsnprintf(plain, sizeof(plain), format, args);
    va_end(args);
    size_t length = 0;
    for (const char *at = plain; *at; at++) {
        if (*at == '\n')
            wired[length++] = '\r';
        wired[length++] = *at;
    }
    console_write(wired, length);
}

void console_io_printf(const char *format, ...)
{
    char text[1100];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    hypervisor_write(text, strlen(text));
}
