#include "plan.h"

#include <errno.h>
#include <string.h>

#include "steps.h"

/* Letters of the fields: d descriptor, u u32, i i32, q u64, s bytes without a zero byte, b bytes, p list of pairs of
 * such strings, l list of such strings, n list of u32, f list of descriptors. */
static const struct operation operations[] = {
    [1] = {"d", step_join_cgroup},
    [2] = {"d", step_enter_net},
    [3] = {"", step_new_cgroupns},
    [4] = {"s", step_hostname},
    [5] = {"ds", step_attach_host},
    [6] = {"ssss", step_overlay},
    [7] = {"s", step_staging},
    [8] = {"ssup", step_mount},
    [9] = {"ssuu", step_bind},
    [10] = {"suuuuu", step_mknod},
    [11] = {"ss", step_symlink},
    [12] = {"suuu", step_directory},
    [13] = {"suuub", step_file},
    [14] = {"s", step_mask},
    [15] = {"s", step_read_only},
    [16] = {"", step_pivot},
    [17] = {"sb", step_sysctl},
    [18] = {"i", step_oom_score},
    [19] = {"uqq", step_rlimit},
    [20] = {"d", step_enter_user},
    [21] = {"q", step_capabilities},
    [22] = {"", step_no_new_privs},
    [23] = {"b", step_seccomp},
    [24] = {"ddn", step_serve},
    [25] = {"d", step_clone_into_cgroup},
    [26] = {"d", step_park},
    [27] = {"ss", step_move_in},
    [28] = {"ddsllf", step_execute},
    [29] = {"", step_new_net},
    [30] = {"", step_share_pids},
};
enum { N_OPERATIONS = sizeof operations / sizeof *operations };

static int decode_fd(struct plan *plan, struct message *message)
{
    uint32_t index = get_u32(&message->body);
    if (index == PARKED_CONTROL && plan->parked_control >= 0)
        return plan->parked_control;
    if (index < message->n_fds)
        return message->fds[index];
    message->body.bad = true;
    return -1;
}

static void decode_pairs(struct plan *plan, struct reader *body, union field *field)
{
    enum { PAIR_MIN = 2 * sizeof(uint32_t) };
    field->span.first = plan->n_strings;
    field->span.count = get_count(body, PAIR_MIN);
    if (field->span.count > (MAX_STRINGS - plan->n_strings) / 2)
        body->bad = true;
    for (uint32_t i = 0; i < 2 * field->span.count && !body->bad; i++)
        plan->strings[plan->n_strings++] = get_string(body);
}

/* Followed by a NULL, as execve() wants it. */
static void decode_strings(struct plan *plan, struct reader *body, union field *field)
{
    field->span.first = plan->n_strings;
    field->span.count = get_count(body, sizeof(uint32_t));
    if (field->span.count >= MAX_STRINGS - plan->n_strings) {
        body->bad = true;
        return;
    }
    for (uint32_t i = 0; i < field->span.count && !body->bad; i++)
        plan->strings[plan->n_strings++] = get_string(body);
    plan->strings[plan->n_strings++] = NULL;
}

static void decode_numbers(struct plan *plan, struct reader *body, union field *field)
{
    field->span.first = plan->n_numbers;
    field->span.count = get_count(body, sizeof(uint32_t));
    if (field->span.count > MAX_NUMBERS - plan->n_numbers)
        body->bad = true;
    for (uint32_t i = 0; i < field->span.count && !body->bad; i++)
        plan->numbers[plan->n_numbers++] = get_u32(body);
}

static void decode_fds(struct plan *plan, struct message *message, union field *field)
{
    field->span.first = plan->n_numbers;
    field->span.count = get_count(&message->body, sizeof(uint32_t));
    if (field->span.count > MAX_NUMBERS - plan->n_numbers)
        message->body.bad = true;
    for (uint32_t i = 0; i < field->span.count && !message->body.bad; i++)
        plan->numbers[plan->n_numbers++] = (uint32_t)decode_fd(plan, message);
}

static void decode_field(struct plan *plan, struct message *message, char type, union field *field)
{
    struct reader *body = &message->body;
    switch (type) {
    case 'd': field->fd = decode_fd(plan, message); break;
    case 'u': field->u32 = get_u32(body); break;
    case 'i': field->i32 = get_i32(body); break;
    case 'q': field->u64 = get_u64(body); break;
    case 's': field->string = get_string(body); break;
    case 'b': field->bytes = get_bytes(body); break;
    case 'p': decode_pairs(plan, body, field); break;
    case 'l': decode_strings(plan, body, field); break;
    case 'n': decode_numbers(plan, body, field); break;
    case 'f': decode_fds(plan, message, field); break;
    }
}

static bool decode_step(struct plan *plan, struct message *message, struct step *step)
{
    uint16_t op = get_u16(&message->body);
    if (op == 0 || op >= N_OPERATIONS)
        return false;
    step->operation = &operations[op];
    const char *types = step->operation->fields;
    for (size_t i = 0; types[i] != 0; i++)
        decode_field(plan, message, types[i], &step->fields[i]);
    return !message->body.bad;
}

/* SERVE, EXECUTE or PARK is the last step and nothing but the last; CLONE_INTO_CGROUP can only be the first. */
static bool well_ordered(const struct plan *plan, uint32_t index, uint32_t count)
{
    int (*run)(struct sandbox *, const union field *) = plan->steps[index].operation->run;
    bool last = run == step_serve || run == step_execute || run == step_park;
    return last == (index + 1 == count) && (run != step_clone_into_cgroup || index == 0);
}

static bool decode_steps(struct plan *plan, struct message *message)
{
    uint32_t count = get_count(&message->body, sizeof(uint16_t));
    if (count == 0 || count > MAX_STEPS) {
        plan->n_steps = UINT32_MAX;
        return false;
    }
    for (; plan->n_steps < count; plan->n_steps++) {
        struct step *step = &plan->steps[plan->n_steps];
        if (!decode_step(plan, message, step) || !well_ordered(plan, plan->n_steps, count))
            return false;
    }
    return get_end(&message->body);
}

int plan_decode(struct plan *plan, struct message *message)
{
    plan->n_steps = plan->n_strings = plan->n_numbers = 0;
    if (decode_steps(plan, message))
        return 0;
    errno = EBADMSG;
    return -1;
}

int plan_cgroup(const struct plan *plan)
{
    const struct step *first = &plan->steps[0];
    return first->operation->run == step_clone_into_cgroup ? first->fields[0].fd : -1;
}

bool plan_shares_pids(const struct plan *plan)
{
    for (uint32_t i = 0; i < plan->n_steps; i++) {
        if (plan->steps[i].operation->run == step_share_pids)
            return true;
    }
    return false;
}

int plan_control(const struct plan *plan)
{
    return plan->steps[plan->n_steps - 1].fields[0].fd;
}
