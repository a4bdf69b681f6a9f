/* Processes that the host has started, as long as they run, and the last ones that have ended: what was told of an end in
 * one session may not have arrived. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "relay.h"

enum { MAX_PROCESSES = 4096, MAX_NOTE = 4096, MAX_ENDED = 256, STDIO = 3 };

struct process {
    uint32_t pid; /* 0: free */
    uint32_t id;  /* of the request that its end answers; 0: nobody waits in this session */
    bool ended, told;
    int32_t status;
    uint64_t order; /* in which they ended */
    uint32_t channels[STDIO];
    uint32_t n_channels;
    char *note;
    uint32_t note_size;
};

static struct process processes[MAX_PROCESSES];
static uint32_t used, ended;
static uint64_t ends;

static void forget(struct process *p)
{
    if (p->ended)
        ended--;
    free(p->note);
    *p = (struct process){0};
    while (used > 0 && processes[used - 1].pid == 0)
        used--;
}

/* One that runs goes before those of the same number that have ended, and the last of them before the others. */
static struct process *find(uint32_t pid)
{
    struct process *found = NULL;
    for (uint32_t i = 0; i < used && pid != 0; i++) {
        struct process *p = &processes[i];
        if (p->pid != pid)
            continue;
        if (!p->ended)
            return p;
        if (found == NULL || found->order < p->order)
            found = p;
    }
    return found;
}

void process_started(uint32_t pid, uint32_t id, const uint32_t *channels, size_t n)
{
    uint32_t i = 0;
    while (i < MAX_PROCESSES && processes[i].pid != 0)
        i++;
    if (i == MAX_PROCESSES)
        return; /* its end will be told as long as the session lasts that waits for it */
    processes[i] = (struct process){.pid = pid, .id = id, .n_channels = n < STDIO ? (uint32_t)n : STDIO};
    memcpy(processes[i].channels, channels, processes[i].n_channels * sizeof *channels);
    if (i >= used)
        used = i + 1;
}

static void forget_first_end(void)
{
    struct process *first = NULL;
    for (uint32_t i = 0; i < used; i++)
        if (processes[i].ended && (first == NULL || processes[i].order < first->order))
            first = &processes[i];
    if (first != NULL)
        forget(first);
}

uint32_t process_ended(uint32_t pid, int32_t status)
{
    struct process *p = find(pid);
    if (p == NULL || p->ended)
        return 0;
    uint32_t id = p->id;
    if (ended == MAX_ENDED)
        forget_first_end();
    p->ended = true;
    p->told = id != 0;
    p->status = status;
    p->order = ++ends;
    ended++;
    return id;
}

void processes_unfollowed(void)
{
    for (uint32_t i = 0; i < used; i++)
        processes[i].id = 0;
}

static void tell_end(struct process *p, uint32_t id)
{
    struct writer writer;
    put_begin(&writer, KIND_EXITED, id);
    put_u32(&writer, p->pid);
    put_i32(&writer, p->status);
    answer_host(&writer);
    p->told = true;
}

int process_follow(uint32_t pid, uint32_t id)
{
    struct process *p = find(pid);
    if (p == NULL)
        return ESRCH;
    p->id = id;
    if (p->ended)
        tell_end(p, id);
    return 0;
}

int process_note(uint32_t pid, struct bytes note)
{
    struct process *p = find(pid);
    if (p == NULL)
        return ESRCH;
    char *copy = note.size <= MAX_NOTE ? malloc(note.size + 1) : NULL;
    if (copy == NULL)
        return note.size <= MAX_NOTE ? ENOMEM : E2BIG;
    memcpy(copy, note.data, note.size);
    free(p->note);
    p->note = copy;
    p->note_size = note.size;
    return 0;
}

void put_survivors(struct writer *writer)
{
    size_t count_at = writer->used;
    uint32_t count = 0;
    put_u32(writer, 0);
    for (uint32_t i = 0; i < used; i++) {
        const struct process *p = &processes[i];
        if (p->pid == 0 || p->told)
            continue;
        put_u32(writer, p->pid);
        put_bytes(writer, p->note, p->note_size);
        put_u32(writer, p->n_channels);
        for (uint32_t k = 0; k < p->n_channels; k++)
            put_u32(writer, p->channels[k]);
        count++;
    }
    put_u32_at(writer, count_at, count);
}
