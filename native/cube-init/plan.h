/* A launch plan: the steps of a LAUNCH message, decoded. */
#ifndef CUBE_PLAN_H
#define CUBE_PLAN_H

#include <stdbool.h>
#include <stdint.h>

#include "wire.h"

enum {
    MAX_STEPS = 256,
    MAX_FIELDS = 6,
    MAX_STRINGS = 512, /* keys and values of all MOUNT steps, arguments and environment of EXECUTE */
    MAX_NUMBERS = 64,  /* user ids of SERVE, descriptors of EXECUTE */
};

union field {
    int fd; /* belongs to the message */
    uint32_t u32;
    int32_t i32;
    uint64_t u64;
    char *string; /* may be changed */
    struct bytes bytes;
    struct {
        uint32_t first, count;
    } span; /* of plan.strings or plan.numbers */
};

struct step {
    const struct operation *operation;
    union field fields[MAX_FIELDS];
};

/* In the place of a descriptor: the control socket that a parked process holds. */
#define PARKED_CONTROL UINT32_MAX

struct plan {
    int parked_control; /* -1 unless this is the second plan of a parked process */
    uint32_t n_steps, n_strings, n_numbers;
    struct step steps[MAX_STEPS];
    char *strings[MAX_STRINGS];
    uint32_t numbers[MAX_NUMBERS];
};

/* Decode the body of a LAUNCH; the plan refers to the message, which must outlive it. The last step is SERVE, EXECUTE or
 * PARK and no other is. -1 with errno EBADMSG when it is malformed; plan->n_steps is then the index of the culprit, or
 * UINT32_MAX for a number of steps that cannot be. */
int plan_decode(struct plan *plan, struct message *message);

/* The directory of the cgroup that the process is to be born in, -1 for the launcher's own. */
int plan_cgroup(const struct plan *plan);

/* Whether the process stays in the launcher's process namespace. */
bool plan_shares_pids(const struct plan *plan);

/* The control socket that the last step names. */
int plan_control(const struct plan *plan);

#endif
