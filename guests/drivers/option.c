/* Words of the kernel's command line: key=value, with blanks between. */
#include "drivers.h"

const char *option(const char *key, const char *otherwise, char *value, size_t size)
{
    const char *line = start_info->cmd_line, *end = line + sizeof(start_info->cmd_line);
    size_t length = strlen(key);
    while (line < end && *line) {
        const char *stop = line;
        while (stop < end && *stop && *stop != ' ')
            stop++;
        if ((size_t)(stop - line) > length && !memcmp(line, key, length) && line[length] == '=') {
            size_t size_now = stop - line - length - 1;
            if (size_now >= size)
                size_now = size - 1;
            memcpy(value, line + length + 1, size_now);
            value[size_now] = '\0';
            return value;
        }
        line = stop;
        while (line < end && *line == ' ')
            line++;
    }
    size_t size_now = strlen(otherwise) < size ? strlen(otherwise) : size - 1;
    memcpy(value, otherwise, size_now);
    value[size_now] = '\0';
    return value;
}

unsigned long option_number(const char *key, const char *otherwise, unsigned long most)
{
    char text[16];
    unsigned long value = 0;
    option(key, otherwise, text, sizeof(text));
    for (const char *at = text; *at; at++) {
        if (*at < '0' || *at > '9' || value > most)
            panic("%s=%s is no number up to %lu", key, text, most);
        value = value * 10 + (*at - '0');
    }
    if (value > most)
        panic("%s=%s is no number up to %lu", key, text, most);
    return value;
}
