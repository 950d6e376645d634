//! The system calls that a module may make: an allow-list; every other call fails with EPERM.
//!
//! It is the list that container engines use for a container without capabilities, less what such a process has no use
//! for: no namespaces, mounts, modules, tracing, io_uring, BPF, perf, keyrings or foreign ABIs, and sockets of four
//! families only. `clone3` answers ENOSYS, so that libc uses `clone`, whose flags a filter can see.

use serde_json::{Value, json};

/// CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const CLONE_NAMESPACES: u64 = 0x7E02_0000;
const ENOSYS: u32 = 38;
const EPERM: u32 = 1;
/// AF_UNIX, AF_INET, AF_INET6, AF_NETLINK (libc lists interfaces by it).
const FAMILIES: [u64; 4] = [1, 2, 10, 16];
/// `personality(2)`: Linux, the 32-bit address limit, ask.
const PERSONALITIES: [u64; 3] = [0, 8, 0xffff_ffff];

const ALLOWED: &str = "accept accept4 access adjtimex alarm arch_prctl bind brk capget capset chdir chmod chown \
    clock_getres clock_gettime clock_nanosleep close close_range connect copy_file_range creat dup dup2 dup3 \
    epoll_create epoll_create1 epoll_ctl epoll_pwait epoll_pwait2 epoll_wait eventfd eventfd2 execve execveat exit \
    exit_group faccessat faccessat2 fadvise64 fallocate fchdir fchmod fchmodat fchown fchownat fcntl fdatasync \
    fgetxattr flistxattr flock fork fremovexattr fsetxattr fstat fstatfs fsync ftruncate futex futex_waitv futimesat \
    get_robust_list get_thread_area getcpu getcwd getdents getdents64 getegid geteuid getgid getgroups getitimer \
    getpeername getpgid getpgrp getpid getppid getpriority getrandom getresgid getresuid getrlimit getrusage getsid \
    getsockname getsockopt gettid gettimeofday getuid getxattr inotify_add_watch inotify_init inotify_init1 \
    inotify_rm_watch io_cancel io_destroy io_getevents io_pgetevents io_setup io_submit ioctl ioprio_get ioprio_set \
    kill landlock_add_rule landlock_create_ruleset landlock_restrict_self lchown lgetxattr link linkat listen \
    listxattr llistxattr lremovexattr lseek lsetxattr lstat madvise membarrier memfd_create memfd_secret mincore mkdir \
    mkdirat mlock mlock2 mlockall mmap mprotect mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedsend mq_unlink \
    mremap msgctl msgget msgrcv msgsnd msync munlock munlockall munmap nanosleep newfstatat open openat openat2 pause \
    pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll prctl pread64 preadv preadv2 \
    prlimit64 process_mrelease pselect6 pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv recvfrom \
    recvmmsg recvmsg remap_file_pages removexattr rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction \
    rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_tgsigqueueinfo \
    sched_get_priority_max sched_get_priority_min sched_getaffinity sched_getattr sched_getparam \
    sched_getscheduler sched_rr_get_interval sched_setaffinity sched_setattr sched_setparam sched_setscheduler \
    sched_yield seccomp select semctl semget semop semtimedop sendfile sendmmsg sendmsg sendto set_robust_list \
    set_thread_area set_tid_address setfsgid setfsuid setgid setgroups setitimer setpgid setpriority setregid \
    setresgid setresuid setreuid setrlimit setsid setsockopt setuid setxattr shmat shmctl shmdt shmget shutdown \
    sigaltstack signalfd signalfd4 socketpair splice stat statfs statx symlink symlinkat sync sync_file_range syncfs \
    sysinfo tee tgkill time timer_create timer_delete timer_getoverrun timer_gettime timer_settime timerfd_create \
    timerfd_gettime timerfd_settime times tkill truncate umask uname unlink unlinkat utime utimensat utimes vfork \
    vmsplice wait4 waitid write writev";

/// `linux.seccomp` of the runtime-spec. Root of a module may also change its root folder, as some servers do before they
/// give up being root.
pub fn profile(root: bool) -> Value {
    let allowed: Vec<&str> = ALLOWED.split_ascii_whitespace().collect();
    let when = |name: &str, index: u32, value: u64, mask_value: u64, op: &str| {
        json!({"names": [name], "action": "SCMP_ACT_ALLOW",
               "args": [{"index": index, "value": value, "valueTwo": mask_value, "op": op}]})
    };
    let mut rules = vec![
        json!({"names": allowed, "action": "SCMP_ACT_ALLOW"}),
        json!({"names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": ENOSYS}),
        when("clone", 0, CLONE_NAMESPACES, 0, "SCMP_CMP_MASKED_EQ"),
    ];
    if root {
        rules.push(json!({"names": ["chroot"], "action": "SCMP_ACT_ALLOW"}));
    }
    rules.extend(FAMILIES.iter().map(|family| when("socket", 0, *family, 0, "SCMP_CMP_EQ")));
    rules.extend(
        PERSONALITIES.iter().map(|personality| when("personality", 0, *personality, 0, "SCMP_CMP_EQ")),
    );
    let architecture =
        if std::env::consts::ARCH == "aarch64" { "SCMP_ARCH_AARCH64" } else { "SCMP_ARCH_X86_64" };
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": EPERM,
        "architectures": [architecture],
        "syscalls": rules,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_dangerous_is_on_the_list() {
        let text = profile(true).to_string();
        for call in [
            "mount",
            "umount2",
            "unshare",
            "setns",
            "ptrace",
            "bpf",
            "keyctl",
            "add_key",
            "init_module",
            "finit_module",
            "kexec_load",
            "perf_event_open",
            "io_uring_setup",
            "userfaultfd",
            "process_vm_readv",
            "pivot_root",
            "reboot",
            "open_by_handle_at",
            "mknod",
            "mknodat",
            "swapon",
            "quotactl",
            "settimeofday",
            "clock_settime",
        ] {
            assert!(!text.contains(&format!("\"{call}\"")), "{call}");
        }
        assert!(!profile(false).to_string().contains("chroot"));
        assert_eq!(profile(false)["defaultAction"], "SCMP_ACT_ERRNO");
    }
}
