#!/bin/busybox sh
# The first process of a guest of `cargo xtask matrix`. Runs the tests and writes what they say to the second serial line, each between
# `begin NAME` and `end NAME STATUS`; the first has everything.
/bin/busybox mkdir -p /proc /sys /dev /tmp /run
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox --install -s /bin
export PATH=/matrix/bin:/bin HOME=/tmp
cd "$(cat /matrix/dir)"

say() {
    echo "$@" >/dev/ttyS1
}

# Runs a command, whose status is then in $status; everything that it writes goes to both lines.
job() {
    name=$1
    shift
    say "begin $name"
    echo "== $name, $(cut -d ' ' -f 1 /proc/uptime) s"
    { "$@" 2>&1; echo $? >/tmp/status; } | tee /tmp/output /dev/ttyS1
    status=$(cat /tmp/status)
    say "end $name $status"
}

# The names of the four cards whose addresses begin like this. After a test they take a while to come back.
cards() {
    for _ in $(seq 100); do
        found=
        for number in 0 1 2 3; do
            for card in /sys/class/net/*; do
                [ "$(cat "$card/address")" = "$1$number" ] && found="$found,${card##*/}"
            done
        done
        [ "$(echo "$found" | tr -cd , | wc -c)" = 4 ] && break
        sleep 0.1
    done
    echo "${found#,}"
}

# What the verifier made of each program, by the other loader: its size, and the stack of each of its functions. The kernel tells
# the latter only in a log that takes minutes to write, so they are read off the instructions.
verifier() {
    bpftool="/matrix/bpftool/ld-linux-x86-64.so.2 --library-path /matrix/bpftool /matrix/bpftool/bpftool"
    mount -t bpf bpf /sys/fs/bpf 2>/dev/null
    $bpftool prog loadall /matrix/turnpike-xdp /sys/fs/bpf/verifier || return 1
    for program in /sys/fs/bpf/verifier/*; do
        bytes=$($bpftool prog show pinned "$program" | grep -o "xlated [0-9]*")
        $bpftool prog dump xlated pinned "$program" >/tmp/instructions
        echo "program ${program##*/} $bytes stack $(stack /tmp/instructions)"
    done
    rm -r /sys/fs/bpf/verifier
}

# The lowest address below the frame pointer, r10, in each function of a listing: used as such, or by way of a copy.
stack() {
    awk '
        function deeper(bytes) { if (bytes > depth) depth = bytes }
        /^[^ ;].*:$/ { if (functions++) printf "%d+", depth; depth = 0 }
        $4 == "=" { copy[$3] = $5 == "r10" && NF == 5 }
        $4 == "+=" && $5 < 0 && copy[$3] { deeper(-$5) }
        at = index($0, "(r10 -") { deeper(substr($0, at + 6) + 0) }
        END { print depth }
    ' "$1"
}

# Tests of the life of policies that meet the kernel most; each loads the programs, which takes its time here.
policies() {
    for test in the_next_process_takes_over_policies_and_counters an_interface_made_anew_gets_its_program_again \
        next_hops_and_ports_follow_the_network a_program_of_somebody_else_is_not_pushed_aside; do
        lifecycle --exact "$test" --show-output 2>&1 | tee /tmp/test
        grep -q "ok. 1 passed" /tmp/test || return 1
    done
}

# A call over the cards of a driver in one mode.
call() {
    job "$1-$3" env "TURNPIKE_WIRE=$(cards "$2")" \
        wire --exact "a_call_crosses_the_wire_in_${3}_mode" --nocapture
}

# Whether the kernel itself found nothing wrong. A guest that is starved of time may find its processors stuck.
sound() {
    ! dmesg | grep -E "kernel BUG|BUG: |WARNING: |Oops|general protection" | grep -v "soft lockup"
}

for module in $(cat /matrix/modules/order); do
    insmod "/matrix/modules/$module" || say "no module $module"
done
ip link set lo up
say "release $(uname -r)"

job kernel kernel --nocapture
job doctor turnpike doctor --json
# Where the kernel is refused, nothing else can run.
if [ "$status" = 0 ]; then
    job verifier verifier
    job differential differential --show-output
    job lifecycle policies
    job vlans env TURNPIKE_BIN=/matrix/bin/turnpike edges --exact vlan::calls_between_vlans --show-output
    while read -r driver address; do
        call "$driver" "$address" native
        # Where all ports are native, so are those that are chosen automatically.
        grep -q "wire native refused" /tmp/output && call "$driver" "$address" auto
        call "$driver" "$address" generic
        cards "$address" >/dev/null
    done </matrix/drivers
fi
job sound sound
say "done"
echo "== done, $(cut -d ' ' -f 1 /proc/uptime) s"
# Not by way of the drivers, which may hang. QEMU takes a restart for the end.
echo b >/proc/sysrq-trigger
