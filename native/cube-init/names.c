#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "children.h"

enum { ARENA = 64 << 20 }; /* address space; memory only as far as names fill it */

int names_begin(struct names *names)
{
    char *arena = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (arena == MAP_FAILED)
        return ENOMEM;
    *names = (struct names){arena, (char **)(arena + ARENA)};
    return 0;
}

static int keep(struct names *names, const char *name)
{
    size_t size = strlen(name) + 1;
    if ((size_t)((char *)names->high - names->low) < size + sizeof *names->high)
        return EOVERFLOW;
    memcpy(names->low, name, size);
    *--names->high = names->low;
    names->low += size;
    return 0;
}

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static bool dots(const char *name)
{
    return strcmp(name, ".") == 0 || strcmp(name, "..") == 0;
}

int names_read(struct names *names, const char *path, int flags, size_t *count)
{
    int error = 0, fd = open(path, O_RDONLY | O_DIRECTORY | O_NONBLOCK | O_CLOEXEC | flags);
    DIR *directory = fd < 0 ? NULL : fdopendir(fd);
    *count = 0;
    if (directory == NULL)
        return errno;
    for (struct dirent *d; !error && (d = readdir(directory)) != NULL;)
        if (!dots(d->d_name)) {
            error = keep(names, d->d_name);
            *count += !error;
        }
    closedir(directory);
    qsort(names->high, *count, sizeof *names->high, by_name);
    return error;
}

bool path_enter(char path[PATH_MAX], size_t length, const char *name)
{
    if (length == 1)
        length = 0; /* the root: no second slash */
    if (length + 1 + strlen(name) >= PATH_MAX)
        return false;
    path[length] = '/';
    strcpy(path + length + 1, name);
    return true;
}
