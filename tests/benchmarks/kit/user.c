/*
 * A static program for the Linux guest: `user NAME ROUNDS` runs one of the loops, or so many system calls or fork+exec+wait.
 * It uses no library, so that nothing but the measured thing takes time. Whoever started it takes the time.
 */

typedef unsigned long word;

extern void loop_tight(word rounds, void *page);
extern void loop_memory(word rounds, void *page);
extern void loop_call(word rounds, void *page);

enum { SYS_getppid = 110, SYS_fork = 57, SYS_execve = 59, SYS_exit = 60, SYS_wait4 = 61 };

static char page[4096] __attribute__((aligned(4096)));

static long call(long number, word a, word b, word c, word d)
{
	register word r10 __asm__("r10") = d;
	long result;

	__asm__ volatile("syscall" : "=a"(result) : "0"(number), "D"(a), "S"(b), "d"(c), "r"(r10) : "rcx", "r11", "memory");
	return result;
}

static int same(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

static int run(int argc, char **argv)
{
	static char *nothing[] = { "/bench/user", 0 };
	word rounds = 0;

	if (argc < 3)
		return 0;                       /* what fork+exec executes */
	for (const char *digit = argv[2]; *digit; digit++)
		rounds = rounds * 10 + (word)(*digit - '0');
	if (same(argv[1], "tight"))
		loop_tight(rounds, page);
	else if (same(argv[1], "memory"))
		loop_memory(rounds, page);
	else if (same(argv[1], "call"))
		loop_call(rounds, page);
	else if (same(argv[1], "syscall"))
		while (rounds--)
			call(SYS_getppid, 0, 0, 0, 0);
	else if (same(argv[1], "fork"))
		while (rounds--) {
			long child = call(SYS_fork, 0, 0, 0, 0);
			if (child == 0) {
				call(SYS_execve, (word)nothing[0], (word)nothing, 0, 0);
				call(SYS_exit, 127, 0, 0, 0);
			}
			if (child < 0 || call(SYS_wait4, (word)child, 0, 0, 0) != child)
				return 1;
		}
	else
		return 2;
	return 0;
}

__attribute__((used)) static void start(word *stack)
{
	call(SYS_exit, (word)run((int)stack[0], (char **)(stack + 1)), 0, 0, 0);
}

__asm__(".globl _start\n_start: mov %rsp, %rdi\n and $-16, %rsp\n call start\n");
