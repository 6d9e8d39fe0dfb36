/* One line of input from the console, edited as a person expects. */
#ifndef LINE_H
#define LINE_H

#include "runtime.h"

#define LINE_MAX 256

/* Reads a line (no terminator in it) into `line`, echoing; blocks while there is no input. ^C gives an empty line. */
void read_line(const char *prompt, char line[LINE_MAX]);

#endif
