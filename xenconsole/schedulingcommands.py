"""The commands of schedulers and pools of CPUs, in xl's names and with xl's letters."""

from __future__ import annotations

from xenconsole.command import DOMAIN, Argument, Command

OF_DOMAIN = Argument("domid", "domain", "name or ID; without one, all are listed", optional=True, option="-d")
OF_POOL = Argument("pool", "pool", "a pool of CPUs", optional=True, option="-p")
OF_SCHEDULER = Argument("whole", "flag", "parameters of the scheduler itself", optional=True, option="-s")
WEIGHT = Argument("weight", "count", "1 to 65535", optional=True, option="-w")
CAP = Argument("cap", "count", "percent of one CPU, 0 for none", optional=True, option="-c")
RATELIMIT = Argument("ratelimit_us", "count", "µs that a turn lasts at least", optional=True, option="-r")
POOL = Argument("pool", "pool", "its name or number")

SCHEDULING: tuple[Command, ...] = (
    Command(
        "vcpu-pin",
        "say which physical CPUs a domain may use, and which it would rather use",
        "scheduling",
        (
            DOMAIN,
            Argument("vcpu", "text", "all: a domain's vCPUs go together"),
            Argument("cpus", "text", "CPUs, as in 0-1,3 or all; - leaves them"),
            Argument("soft", "text", "CPUs it would rather use", optional=True),
        ),
        xl="xl vcpu-pin {domid} {vcpu} {cpus}{soft: @}",
        engine=True,
        tells=True,
    ),
    Command(
        "sched-credit2",
        "weight and cap of a domain, the rate limit of the scheduler; alone, what they are",
        "scheduling",
        (OF_DOMAIN, WEIGHT, CAP, OF_SCHEDULER, OF_POOL, RATELIMIT),
        aliases=("sched",),
        xl="xl sched-credit2{whole: -s}{pool: -p @}{domid: -d @}{weight: -w @}{cap: -c @}{ratelimit_us: -r @}",
        engine=True,
        tells=True,
    ),
    Command(
        "sched-credit",
        "the same under credit, with its time slice",
        "scheduling",
        (OF_DOMAIN, WEIGHT, CAP, OF_SCHEDULER, OF_POOL, RATELIMIT, Argument("tslice_ms", "count", "ms of a turn", optional=True, option="-t")),
        xl="xl sched-credit{whole: -s}{pool: -p @}{domid: -d @}{weight: -w @}{cap: -c @}{tslice_ms: -t @}{ratelimit_us: -r @}",
        engine=True,
        tells=True,
    ),
    Command(
        "sched-rtds",
        "period, budget and extra time of a domain under RTDS; alone, what they are",
        "scheduling",
        (
            OF_DOMAIN,
            Argument("period", "count", "µs", optional=True, option="-p"),
            Argument("budget", "count", "µs in every period", optional=True, option="-b"),
            Argument("extratime", "count", "1: may have what nobody wants", optional=True, option="-e"),
            Argument("vcpu", "text", "all: a domain's vCPUs go together; lists each", optional=True, option="-v"),
            Argument("pool", "pool", "a pool of CPUs", optional=True, option="-c"),
        ),
        xl="xl sched-rtds{pool: -c @}{domid: -d @}{vcpu: -v @}{period: -p @}{budget: -b @}{extratime: -e @}",
        engine=True,
        tells=True,
    ),
    Command(
        "sched-bvt",
        "weight of a domain and the slice of the scheduler under BVT; alone, what they are",
        "scheduling",
        (OF_DOMAIN, WEIGHT, OF_SCHEDULER, OF_POOL, Argument("allowance_us", "count", "µs of a turn", optional=True, option="-a")),
        xl="xl sched-bvt{whole: -s}{pool: -p @}{domid: -d @}{weight: -w @}{allowance_us: -a @}",
        engine=True,
        tells=True,
    ),
    Command(
        "cpupool-list",
        "pools of physical CPUs",
        "scheduling",
        (Argument("pool", "pool", "one of them", optional=True),),
        xl="xl cpupool-list{pool: @}",
        engine=True,
        tells=True,
    ),
    Command(
        "cpupool-create",
        "make a pool of free CPUs, with a scheduler of its own",
        "scheduling",
        (Argument("settings", "text", "name=… sched=… cpus=…"),),
        xl="xl cpupool-create {settings}",
        engine=True,
        tells=True,
    ),
    Command(
        "cpupool-destroy",
        "end a pool without domains; its CPUs are free",
        "scheduling",
        (POOL,),
        xl="xl cpupool-destroy {pool}",
        engine=True,
        tells=True,
    ),
    Command(
        "cpupool-cpu-add",
        "give a pool free CPUs",
        "scheduling",
        (POOL, Argument("cpus", "text", "CPUs, as in 0-1,3")),
        xl="xl cpupool-cpu-add {pool} {cpus}",
        engine=True,
        tells=True,
    ),
    Command(
        "cpupool-cpu-remove",
        "make CPUs of a pool free",
        "scheduling",
        (POOL, Argument("cpus", "text", "CPUs, as in 0-1,3")),
        xl="xl cpupool-cpu-remove {pool} {cpus}",
        engine=True,
        tells=True,
    ),
    Command(
        "cpupool-migrate",
        "move a domain to another pool",
        "scheduling",
        (DOMAIN, POOL),
        xl="xl cpupool-migrate {domid} {pool}",
        engine=True,
        tells=True,
    ),
)
