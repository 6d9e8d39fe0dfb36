/*
 * Line editing at the end of the line: backspace, ^U, ^W, ^C, ^L, and the arrows up and down for the last few lines. Other
 * escape sequences are swallowed whole. Bytes from 0x80 on are taken as UTF-8 and erased a character at a time.
 */
#include "line.h"

#define HISTORY 8

static char history[HISTORY][LINE_MAX];
static unsigned history_next, history_count;

struct editor {
    const char *prompt;
    char *line;
    size_t length;
    unsigned back; /* how many lines ago is shown, 0 for the one being typed */
};

static int next_byte(void)
{
    int byte;
    events_mask();
    while ((byte = console_read()) < 0) {
        block();
        events_mask();
    }
    events_unmask();
    return byte;
}

static void echo(const char *text)
{
    console_write(text, strlen(text));
}

static void erase(struct editor *e)
{
    if (!e->length)
        return;
    while (e->length > 1 && (e->line[e->length - 1] & 0xc0) == 0x80)
        e->length--;
    e->length--;
    echo("\b \b");
}

static void show(struct editor *e)
{
    echo("\r\033[K");
    echo(e->prompt);
    console_write(e->line, e->length);
}

static void recall(struct editor *e, int step)
{
    if ((step > 0 && e->back >= history_count) || (step < 0 && !e->back))
        return;
    e->back += step;
    e->length = 0;
    if (e->back) {
        const char *old = history[(history_next - e->back) % HISTORY];
        e->length = strlen(old);
        memcpy(e->line, old, e->length);
    }
    show(e);
}

static void escape(struct editor *e)
{
    int byte = next_byte();
    if (byte != '[' && byte != 'O')
        return;
    do
        byte = next_byte();
    while (byte >= 0x20 && byte < 0x40); /* parameters of a control sequence */
    if (byte == 'A')
        recall(e, 1);
    else if (byte == 'B')
        recall(e, -1);
}

static void remember(const char *line)
{
    const char *last = history[(history_next - 1) % HISTORY];
    if (!line[0] || (history_count && !strcmp(last, line)))
        return;
    memcpy(history[history_next++ % HISTORY], line, strlen(line) + 1);
    if (history_count < HISTORY)
        history_count++;
}

static void edit(struct editor *e, int byte)
{
    switch (byte) {
    case 8:
    case 127:
        erase(e);
        break;
    case 'U' - '@':
        while (e->length)
            erase(e);
        break;
    case 'W' - '@':
        while (e->length && e->line[e->length - 1] == ' ')
            erase(e);
        while (e->length && e->line[e->length - 1] != ' ')
            erase(e);
        break;
    case 'L' - '@':
        echo("\033[H\033[2J");
        show(e);
        break;
    case 27:
        escape(e);
        break;
    default:
        if (byte == '\t')
            byte = ' ';
        if (byte >= ' ' && e->length < LINE_MAX - 1) {
            char c = (char)byte;
            e->line[e->length++] = c;
            console_write(&c, 1);
        }
    }
}

void read_line(const char *prompt, char line[LINE_MAX])
{
    static bool after_return; /* the line feed of a CR LF pair ends no second line */
    struct editor e = {prompt, line, 0, 0};
    echo(prompt);
    for (;;) {
        int byte = next_byte();
        bool pair = after_return && byte == '\n';
        after_return = byte == '\r';
        if (pair)
            continue;
        if (byte == '\r' || byte == '\n' || byte == 'C' - '@') {
            if (byte == 'C' - '@') {
                echo("^C");
                e.length = 0;
            }
            line[e.length] = '\0';
            echo("\r\n");
            remember(line);
            return;
        }
        edit(&e, byte);
    }
}
