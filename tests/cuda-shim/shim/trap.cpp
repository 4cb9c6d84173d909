// Turns a fault of a kernel's thread into the end of its launch, with a message.
//
// The thread's fiber goes on in `landed` instead of where it faulted, and that gives the block
// up as any other broken rule does. A fault anywhere else is left to whoever handled it before.

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include "machine.h"

namespace {

struct Trap {
    bool armed;
    bool tripped;
    bool general; // no address: not even one that memory could have
    uintptr_t address;
    // The stack of the OS thread, on which the machine itself runs.
    uintptr_t low, high;
};
__thread Trap trap;

struct sigaction before[2];

void landed() {
    if (trap.general) {
        shim::fail("uses an address that cannot be one, as if nobody had written it");
    }
    shim::fail("uses address %#lx, where it has nothing", static_cast<unsigned long>(trap.address));
}

void handle(int signal, siginfo_t *info, void *context) {
    auto *registers = static_cast<ucontext_t *>(context)->uc_mcontext.gregs;
    auto stack = static_cast<uintptr_t>(registers[REG_RSP]);
    bool of_machine = stack >= trap.low && stack < trap.high;
    if (trap.armed && !trap.tripped && !of_machine) {
        trap.tripped = true;
        trap.general = info->si_code == SI_KERNEL;
        trap.address = reinterpret_cast<uintptr_t>(info->si_addr);
        // Below what the function may keep under its stack pointer, aligned as after a call.
        registers[REG_RSP] = static_cast<greg_t>(((stack - 256) & ~uintptr_t(15)) - 8);
        registers[REG_RIP] = reinterpret_cast<greg_t>(landed);
        return;
    }
    struct sigaction &other = before[signal == SIGBUS];
    if (other.sa_flags & SA_SIGINFO) {
        other.sa_sigaction(signal, info, context);
    } else if (other.sa_handler == SIG_DFL || other.sa_handler == SIG_IGN) {
        // The fault happens again, and nobody handles it.
        sigaction(signal, &other, nullptr);
    } else {
        other.sa_handler(signal);
    }
}

void install() {
    struct sigaction action = {};
    action.sa_sigaction = handle;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK;
    sigemptyset(&action.sa_mask);
    sigaction(SIGSEGV, &action, &before[0]);
    sigaction(SIGBUS, &action, &before[1]);
}

} // namespace

extern "C" {

// From now on faults of kernels on this thread end their launch.
void shim_trap_arm() {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    pthread_once(&once, install);
    if (trap.high == 0) {
        pthread_attr_t attributes;
        void *low = nullptr;
        size_t bytes = 0;
        if (pthread_getattr_np(pthread_self(), &attributes) != 0) {
            abort();
        }
        pthread_attr_getstack(&attributes, &low, &bytes);
        pthread_attr_destroy(&attributes);
        trap.low = reinterpret_cast<uintptr_t>(low);
        trap.high = trap.low + bytes;
    }
    trap.tripped = false;
    trap.armed = true;
}

// Ends that. Returns whether there was such a fault.
int shim_trap_disarm() {
    trap.armed = false;
    return trap.tripped ? 1 : 0;
}
}
