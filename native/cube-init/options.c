#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "guest.h"

/* Numbers separated by commas, or by what ends the word; returns how many there are. */
static size_t read_numbers(const char *text, uint64_t *numbers, size_t most)
{
    size_t n = 0;
    while (n < most && isdigit((unsigned char)*text)) {
        char *end;
        numbers[n++] = strtoull(text, &end, 10);
        text = *end == ',' ? end + 1 : end;
    }
    return n;
}

static size_t read_word(const char *line, const char *name, uint64_t *numbers, size_t most)
{
    const char *found = strstr(line, name);
    return found == NULL ? 0 : read_numbers(found + strlen(name), numbers, most);
}

void guest_read_options(struct guest_options *options)
{
    char line[2048];
    uint64_t uids[GUEST_MAX_SUDO];
    if (!guest_read("/proc/cmdline", line, sizeof line))
        guest_fail("reading the command line");
    options->n_sudo = read_word(line, " cube.sudo=", uids, GUEST_MAX_SUDO);
    for (size_t i = 0; i < options->n_sudo; i++)
        options->sudo_uids[i] = (uint32_t)uids[i];
    read_word(line, " cube.pids=", &options->pids, 1);
    read_word(line, " cube.files=", &options->open_files, 1);
}
