/* A final name only ever holds a whole file; every refusal of the system is an IO error that names the path
 * and leaves neither a temporary file nor a damaged older one. */
#define _DEFAULT_SOURCE /* mount, setitimer */

#include "formats/file.h"
#include "formats/memory.h"
#include "tests/support/scratch.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

enum { BUFFER = 1 << 20, BIG = 3 * BUFFER + 12345 };

static scratch dir;
static unsigned char big[BIG];

static int setup(void **state) {
    (void)state;
    scratch_create(&dir);
    for (size_t i = 0; i < BIG; i++)
        big[i] = (unsigned char)(i * 2654435761u >> 13);
    return 0;
}

static int teardown(void **state) {
    (void)state;
    scratch_remove(&dir);
    return 0;
}

static const char *at(const char *name) {
    static char path[SCRATCH_PATH_BYTES];
    return scratch_path(&dir, name, path);
}

/* An IO error that names the path and says `text`. */
static void assert_io(ousac_status status, const ousac_error *error, const char *path, const char *text) {
    assert_int_equal(status, OUSAC_STATUS_IO);
    assert_int_equal(error->status, OUSAC_STATUS_IO);
    assert_ptr_equal(strstr(error->message, path), error->message);
    if (!strstr(error->message, text))
        fail_msg("expected \"%s\" in: %s", text, error->message);
}

/* ---- writing ---- */

static void every_size_comes_back(void **state) {
    static const size_t sizes[] = {0, 1, 4096, BUFFER - 1, BUFFER, BUFFER + 1, BIG};
    (void)state;
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        ousac_file_view view;
        assert_int_equal(ousac_file_replace(at("x"), big, sizes[i], NULL), OUSAC_STATUS_OK);
        assert_true(scratch_holds(&dir, "x", big, sizes[i]));
        assert_int_equal(scratch_entries(&dir), 1);
        assert_int_equal(ousac_file_map(&view, at("x"), NULL), OUSAC_STATUS_OK);
        assert_int_equal(view.size, sizes[i]);
        if (sizes[i])
            assert_memory_equal(view.data, big, sizes[i]);
        else
            assert_null(view.data);
        ousac_file_unmap(&view);
        assert_null(view.data);
        assert_int_equal(view.size, 0);
    }
}

static void parts_of_every_size_join_in_order(void **state) {
    ousac_file_writer *writer;
    size_t used = 0;
    (void)state;
    assert_int_equal(ousac_file_create(&writer, at("x"), NULL), OUSAC_STATUS_OK);
    for (size_t part = 0; used < BIG; part = part * 3 + 1) {
        size_t size = part < BIG - used ? part : BIG - used;
        assert_int_equal(ousac_file_write(writer, big + used, size, NULL), OUSAC_STATUS_OK);
        used += size;
    }
    assert_int_equal(ousac_file_commit(writer, NULL), OUSAC_STATUS_OK);
    assert_true(scratch_holds(&dir, "x", big, BIG));
}

static void nothing_appears_before_the_commit(void **state) {
    ousac_file_writer *writer;
    (void)state;
    assert_int_equal(ousac_file_create(&writer, at("x"), NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_file_write(writer, big, BIG, NULL), OUSAC_STATUS_OK);
    assert_int_equal(access(at("x"), F_OK), -1);
    assert_int_equal(scratch_entries(&dir), 1);
    assert_int_equal(ousac_file_commit(writer, NULL), OUSAC_STATUS_OK);
    assert_int_equal(access(at("x"), F_OK), 0);
    assert_int_equal(scratch_entries(&dir), 1);
}

static void discard_leaves_the_old_file(void **state) {
    ousac_file_writer *writer;
    (void)state;
    scratch_put(&dir, "x", "old", 3);
    assert_int_equal(ousac_file_create(&writer, at("x"), NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_file_write(writer, big, BIG, NULL), OUSAC_STATUS_OK);
    ousac_file_discard(writer);
    ousac_file_discard(NULL);
    assert_true(scratch_holds(&dir, "x", "old", 3));
    assert_int_equal(scratch_entries(&dir), 1);
}

/* Sees the whole new file while the old one is still in its place; `self` is the verdict. */
static ousac_status look(void *self, const char *path, ousac_error *error) {
    ousac_file_view view;
    assert_int_equal(ousac_file_map(&view, path, NULL), OUSAC_STATUS_OK);
    assert_int_equal(view.size, BIG);
    assert_memory_equal(view.data, big, BIG);
    ousac_file_unmap(&view);
    assert_true(scratch_holds(&dir, "x", "old", 3));
    if (*(const ousac_status *)self)
        return OUSAC_FAIL(error, *(const ousac_status *)self, "not liked");
    return OUSAC_STATUS_OK;
}

static void what_a_check_refuses_never_gets_the_name(void **state) {
    ousac_status verdict = OUSAC_STATUS_FORMAT;
    ousac_file_writer *writer;
    ousac_error error = {0};
    (void)state;
    scratch_put(&dir, "x", "old", 3);
    assert_int_equal(ousac_file_create(&writer, at("x"), NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_file_write(writer, big, BIG, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_file_commit_checked(writer, look, &verdict, &error), OUSAC_STATUS_FORMAT);
    assert_non_null(strstr(error.message, "not liked"));
    assert_true(scratch_holds(&dir, "x", "old", 3));
    assert_int_equal(scratch_entries(&dir), 1);
    verdict = OUSAC_STATUS_OK;
    assert_int_equal(ousac_file_create(&writer, at("x"), NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_file_write(writer, big, BIG, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_file_commit_checked(writer, look, &verdict, NULL), OUSAC_STATUS_OK);
    assert_true(scratch_holds(&dir, "x", big, BIG));
    assert_int_equal(scratch_entries(&dir), 1);
}

static void two_writers_of_one_name_do_not_meet(void **state) {
    ousac_file_writer *first, *second;
    (void)state;
    assert_int_equal(ousac_file_create(&first, at("x"), NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_file_create(&second, at("x"), NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_file_write(first, "first", 5, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_file_write(second, "second", 6, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_file_commit(second, NULL), OUSAC_STATUS_OK);
    assert_true(scratch_holds(&dir, "x", "second", 6));
    assert_int_equal(ousac_file_commit(first, NULL), OUSAC_STATUS_OK);
    assert_true(scratch_holds(&dir, "x", "first", 5));
    assert_int_equal(scratch_entries(&dir), 1);
}

static void rewrite_changes_written_bytes_only(void **state) {
    ousac_file_writer *writer;
    ousac_error error = {0};
    unsigned char *expected = malloc(BIG + 4);
    (void)state;
    assert_non_null(expected);
    memcpy(expected, big, BIG);
    memset(expected, 'h', 64);
    memset(expected + BUFFER - 5, 'm', 10);
    memset(expected + BIG - 2, 'e', 2);
    memcpy(expected + BIG, "tail", 4);

    assert_int_equal(ousac_file_create(&writer, at("x"), NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_file_write(writer, big, 100, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_file_rewrite(writer, 0, expected, 64, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_file_write(writer, big + 100, BIG - 100, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_file_rewrite(writer, BUFFER - 5, expected + BUFFER - 5, 10, NULL),
                     OUSAC_STATUS_OK);
    assert_int_equal(ousac_file_rewrite(writer, BIG - 2, expected + BIG - 2, 2, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_file_rewrite(writer, BIG, "", 0, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_file_rewrite(writer, BIG - 2, "too", 3, &error), OUSAC_STATUS_USAGE);
    assert_int_equal(ousac_file_rewrite(writer, SIZE_MAX, "x", 1, NULL), OUSAC_STATUS_USAGE);
    assert_int_equal(ousac_file_rewrite(writer, 1, "x", SIZE_MAX, NULL), OUSAC_STATUS_USAGE);
    assert_int_equal(ousac_file_write(writer, "tail", 4, NULL), OUSAC_STATUS_OK); /* the end stayed */
    assert_int_equal(ousac_file_commit(writer, NULL), OUSAC_STATUS_OK);
    assert_true(scratch_holds(&dir, "x", expected, BIG + 4));
    free(expected);
}

static void mode_follows_the_umask(void **state) {
    static const mode_t masks[] = {0, 022, 077};
    (void)state;
    for (size_t i = 0; i < 3; i++) {
        struct stat info;
        mode_t before = umask(masks[i]);
        ousac_status status = ousac_file_replace(at("x"), "x", 1, NULL);
        (void)umask(before);
        assert_int_equal(status, OUSAC_STATUS_OK);
        assert_int_equal(stat(at("x"), &info), 0);
        assert_int_equal(info.st_mode & 0777, 0666 & ~masks[i]);
    }
}

static void relative_and_longest_names(void **state) {
    char name[256], here[SCRATCH_PATH_BYTES];
    (void)state;
    memset(name, 'n', 255);
    name[255] = '\0'; /* NAME_MAX: a temporary name built from all of it would not fit */
    assert_int_equal(ousac_file_replace(at(name), "x", 1, NULL), OUSAC_STATUS_OK);
    assert_true(scratch_holds(&dir, name, "x", 1));

    assert_non_null(getcwd(here, sizeof here));
    assert_int_equal(chdir(dir.path), 0);
    assert_int_equal(ousac_file_replace("plain", "y", 1, NULL), OUSAC_STATUS_OK);
    assert_int_equal(ousac_file_replace("./dotted", "z", 1, NULL), OUSAC_STATUS_OK);
    assert_int_equal(chdir(here), 0);
    assert_true(scratch_holds(&dir, "plain", "y", 1));
    assert_true(scratch_holds(&dir, "dotted", "z", 1));
    assert_int_equal(scratch_entries(&dir), 3);
}

/* ---- targets that are not plain files ---- */

static void a_symbolic_link_survives(void **state) {
    struct stat info;
    char link[SCRATCH_PATH_BYTES];
    ousac_error error = {0};
    (void)state;
    assert_int_equal(mkdir(at("sub"), 0700), 0);
    scratch_put(&dir, "sub/real", "old", 3);
    scratch_path(&dir, "link", link);
    assert_int_equal(symlink("sub/real", link), 0);
    assert_int_equal(ousac_file_replace(link, "new!", 4, NULL), OUSAC_STATUS_OK);
    assert_true(scratch_holds(&dir, "sub/real", "new!", 4));
    assert_int_equal(lstat(link, &info), 0);
    assert_true(S_ISLNK(info.st_mode));

    assert_int_equal(unlink(at("sub/real")), 0);
    assert_io(ousac_file_replace(link, "x", 1, &error), &error, link, "symbolic link");
    assert_int_equal(lstat(link, &info), 0);
    assert_int_equal(scratch_entries(&dir), 2);
}

/* A character device that the code under test may wreck: one of the test's own for root, who could replace
 * the system's; the system's for others, who cannot. Skips where neither is to be had. */
static const char *device(char path[SCRATCH_PATH_BYTES]) {
    struct stat null;
    assert_int_equal(stat("/dev/null", &null), 0);
    if (geteuid() != 0 && access("/dev", W_OK) != 0) {
        strcpy(path, "/dev/null");
    } else if (mknod(scratch_path(&dir, "device", path), S_IFCHR | 0600, null.st_rdev) != 0) {
        print_message("skipped: making a device is refused (%s)\n", strerror(errno));
        skip();
    }
    return path;
}

static void a_link_to_a_device_is_refused(void **state) {
    char link[SCRATCH_PATH_BYTES], path[SCRATCH_PATH_BYTES];
    ousac_error error = {0};
    struct stat info;
    (void)state;
    assert_int_equal(symlink(device(path), scratch_path(&dir, "link", link)), 0);
    assert_io(ousac_file_replace(link, "x", 1, &error), &error, link, "only a regular file");
    assert_int_equal(stat(path, &info), 0);
    assert_true(S_ISCHR(info.st_mode));
}

static void directories_are_refused(void **state) {
    ousac_error error = {0};
    char path[SCRATCH_PATH_BYTES];
    (void)state;
    assert_io(ousac_file_replace(dir.path, "x", 1, &error), &error, dir.path, "is a directory");
    scratch_path(&dir, "", path); /* with a slash at the end */
    assert_io(ousac_file_replace(path, "x", 1, &error), &error, path, "names no file");
    assert_io(ousac_file_replace("", "x", 1, &error), &error, "(empty path)", "names no file");
    assert_int_equal(scratch_entries(&dir), 0);
}

static void a_device_is_refused_and_lives(void **state) {
    char path[SCRATCH_PATH_BYTES];
    ousac_error error = {0};
    struct stat info;
    (void)state;
    assert_io(ousac_file_replace(device(path), "x", 1, &error), &error, path, "only a regular file");
    assert_int_equal(stat(path, &info), 0);
    assert_true(S_ISCHR(info.st_mode));
}

static void a_pipe_is_refused_and_lives(void **state) {
    ousac_error error = {0};
    struct stat info;
    (void)state;
    assert_int_equal(mkfifo(at("pipe"), 0600), 0);
    assert_io(ousac_file_replace(at("pipe"), "x", 1, &error), &error, at("pipe"), "only a regular file");
    assert_int_equal(stat(at("pipe"), &info), 0);
    assert_true(S_ISFIFO(info.st_mode));
}

static void directories_are_made_with_those_above(void **state) {
    ousac_error error = {0};
    struct stat info;
    (void)state;
    assert_int_equal(ousac_file_make_directory(at("one/two/three/"), &error), OUSAC_STATUS_OK);
    assert_true(stat(at("one/two/three"), &info) == 0 && S_ISDIR(info.st_mode));
    assert_int_equal(ousac_file_make_directory(at("one/two"), &error), OUSAC_STATUS_OK); /* as it stands */
    scratch_put(&dir, "taken", "x", 1);
    assert_io(ousac_file_make_directory(at("taken"), &error), &error, at("taken"), "not a directory");
    assert_io(ousac_file_make_directory(at("taken/below"), &error), &error, at("taken/below"), "cannot make");
    assert_int_equal(ousac_file_make_directory("", &error), OUSAC_STATUS_IO);
}

static void a_missing_directory_is_io(void **state) {
    ousac_error error = {0};
    (void)state;
    assert_io(ousac_file_replace(at("no/such/x"), "x", 1, &error), &error, at("no/such/x"), strerror(ENOENT));
    scratch_put(&dir, "file", "x", 1);
    assert_io(ousac_file_replace(at("file/x"), "x", 1, &error), &error, at("file/x"), strerror(ENOTDIR));
}

static void a_protected_directory_is_io(void **state) {
    ousac_error error = {0};
    ousac_status status;
    int root = geteuid() == 0;
    (void)state;
    scratch_put(&dir, "x", "old", 3);
    assert_int_equal(chmod(dir.path, 0555), 0);
    if (root)
        assert_int_equal(seteuid(65534), 0); /* permissions do not bind root */
    status = ousac_file_replace(at("x"), "new", 3, &error);
    if (root)
        assert_int_equal(seteuid(0), 0);
    assert_int_equal(chmod(dir.path, 0700), 0);
    assert_io(status, &error, at("x"), strerror(EACCES));
    assert_true(scratch_holds(&dir, "x", "old", 3));
    assert_int_equal(scratch_entries(&dir), 1);
}

/* ---- no room ---- */

/* Runs `body` with files limited to `bytes`, where a write ends short and then fails with EFBIG. */
static void with_file_limit(size_t bytes, void (*body)(void)) {
    struct rlimit before, limit;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &before), 0);
    limit = before;
    limit.rlim_cur = bytes;
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &limit), 0);
    body();
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &before), 0);
    (void)signal(SIGXFSZ, handler);
    assert_true(scratch_holds(&dir, "x", "old", 3));
    assert_int_equal(scratch_entries(&dir), 1);
}

static ousac_status limited_status, limited_again, limited_commit;
static ousac_error limited_error;

static void fail_in_write(void) {
    ousac_file_writer *writer;
    limited_status = ousac_file_create(&writer, at("x"), NULL);
    if (limited_status)
        return;
    limited_status = ousac_file_write(writer, big, BIG, &limited_error);
    limited_again = ousac_file_write(writer, "more", 4, NULL);
    limited_commit = ousac_file_commit(writer, NULL); /* must not publish what is there */
}

static void fail_in_commit(void) {
    ousac_file_writer *writer;
    limited_status = ousac_file_create(&writer, at("x"), NULL);
    if (limited_status)
        return;
    limited_again = ousac_file_write(writer, big, 100000, NULL); /* still in the buffer */
    limited_status = ousac_file_commit(writer, &limited_error);
}

static void a_write_past_the_limit_leaves_the_old_file(void **state) {
    (void)state;
    scratch_put(&dir, "x", "old", 3);
    with_file_limit(BUFFER + 777, fail_in_write);
    assert_io(limited_status, &limited_error, at("x"), strerror(EFBIG));
    assert_int_equal(limited_again, OUSAC_STATUS_IO);
    assert_int_equal(limited_commit, OUSAC_STATUS_IO);
}

static void a_flush_past_the_limit_leaves_the_old_file(void **state) {
    (void)state;
    scratch_put(&dir, "x", "old", 3);
    with_file_limit(4096, fail_in_commit);
    assert_int_equal(limited_again, OUSAC_STATUS_OK);
    assert_io(limited_status, &limited_error, at("x"), strerror(EFBIG));
}

static void a_full_disk_leaves_the_old_file(void **state) {
    ousac_error error = {0};
    ousac_status small, large;
    char path[SCRATCH_PATH_BYTES];
    int kept;
    (void)state;
    if (mount("none", dir.path, "tmpfs", 0, "size=64k") != 0) {
        print_message("skipped: mounting a small file system is refused (%s)\n", strerror(errno));
        skip();
    }
    scratch_path(&dir, "x", path);
    small = ousac_file_replace(path, "old", 3, NULL);
    large = ousac_file_replace(path, big, 200000, &error);
    kept = scratch_holds(&dir, "x", "old", 3) && scratch_entries(&dir) == 1;
    assert_int_equal(umount(dir.path), 0);
    assert_int_equal(small, OUSAC_STATUS_OK);
    assert_io(large, &error, path, strerror(ENOSPC));
    assert_true(kept);
}

static void a_failed_allocation_leaves_the_old_file(void **state) {
    ousac_status status = OUSAC_STATUS_MEMORY;
    long allowed;
    (void)state;
    scratch_put(&dir, "x", "old", 3);
    for (allowed = 0; status == OUSAC_STATUS_MEMORY; allowed++) {
        ousac_error error = {0};
        assert_true(scratch_holds(&dir, "x", "old", 3));
        (void)ousac_memory_fail_after(allowed);
        status = ousac_file_replace(at("x"), "new!", 4, &error);
        (void)ousac_memory_fail_after(-1);
        assert_int_equal(scratch_entries(&dir), 1);
        if (status)
            assert_ptr_equal(strstr(error.message, dir.path), error.message);
    }
    assert_int_equal(status, OUSAC_STATUS_OK);
    assert_true(allowed > 3);
    assert_true(scratch_holds(&dir, "x", "new!", 4));
}

/* ---- reading ---- */

static void map_refuses_what_is_no_file(void **state) {
    ousac_file_view view;
    ousac_error error = {0};
    (void)state;
    assert_io(ousac_file_map(&view, at("absent"), &error), &error, at("absent"), strerror(ENOENT));
    assert_null(view.data);
    assert_io(ousac_file_map(&view, dir.path, &error), &error, dir.path, "is a directory");
    assert_int_equal(mkfifo(at("pipe"), 0600), 0);
    assert_io(ousac_file_map(&view, at("pipe"), &error), &error, at("pipe"), "expected a regular file");
    assert_io(ousac_file_map(&view, "/dev/zero", &error), &error, "/dev/zero", "expected a regular file");
}

static void text_has_a_limit_and_no_nul(void **state) {
    ousac_error error = {0};
    char *text;
    size_t size;
    (void)state;
    scratch_put(&dir, "x", "seven\nb", 7);
    assert_int_equal(ousac_file_read_text(&text, &size, at("x"), 7, NULL), OUSAC_STATUS_OK);
    assert_int_equal(size, 7);
    assert_string_equal(text, "seven\nb");
    ousac_free(text);
    assert_int_equal(ousac_file_read_text(&text, &size, at("x"), 6, &error), OUSAC_STATUS_FORMAT);
    assert_null(text);
    assert_ptr_equal(strstr(error.message, at("x")), error.message);

    scratch_put(&dir, "x", "", 0);
    assert_int_equal(ousac_file_read_text(&text, NULL, at("x"), 0, NULL), OUSAC_STATUS_OK);
    assert_string_equal(text, "");
    ousac_free(text);

    scratch_put(&dir, "x", "a\0b", 3);
    assert_int_equal(ousac_file_read_text(&text, NULL, at("x"), 100, &error), OUSAC_STATUS_FORMAT);
    assert_non_null(strstr(error.message, "NUL"));
    assert_io(ousac_file_read_text(&text, NULL, at("absent"), 100, &error), &error, at("absent"),
              strerror(ENOENT));
    assert_io(ousac_file_read_text(&text, NULL, dir.path, 100, &error), &error, dir.path, strerror(EISDIR));
}

static void long_text_grows(void **state) {
    static const size_t sizes[] = {16383, 16384, 16385, 32768, 1000000};
    unsigned char *letters = malloc(1000000);
    (void)state;
    assert_non_null(letters);
    for (size_t i = 0; i < 1000000; i++)
        letters[i] = (unsigned char)('a' + i % 23);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        char *text;
        size_t size;
        scratch_put(&dir, "x", letters, sizes[i]);
        assert_int_equal(ousac_file_read_text(&text, &size, at("x"), SIZE_MAX, NULL), OUSAC_STATUS_OK);
        assert_int_equal(size, sizes[i]);
        assert_memory_equal(text, letters, size);
        assert_int_equal(text[size], 0);
        ousac_free(text);
        assert_int_equal(ousac_file_read_text(&text, &size, at("x"), sizes[i], NULL), OUSAC_STATUS_OK);
        assert_int_equal(size, sizes[i]);
        ousac_free(text);
        assert_int_equal(ousac_file_read_text(&text, NULL, at("x"), sizes[i] - 1, NULL), OUSAC_STATUS_FORMAT);
    }
    free(letters);
}

static volatile sig_atomic_t interrupts;

static void count_interrupt(int number) {
    (void)number;
    interrupts++;
}

/* A pipe whose writer is slow, read while a timer interrupts every millisecond. */
static void interrupted_reads_go_on(void **state) {
    struct sigaction action = {.sa_handler = count_interrupt}, before; /* no SA_RESTART: calls return EINTR */
    struct itimerval tick = {{0, 1000}, {0, 1000}}, off = {{0, 0}, {0, 0}};
    char *text = NULL;
    size_t size = 0;
    ousac_status status;
    pid_t child;
    int result = -1;
    (void)state;
    assert_int_equal(mkfifo(at("pipe"), 0600), 0);
    child = fork();
    assert_true(child >= 0);
    if (child == 0) {
        struct timespec pause = {0, 30000000};
        int fd;
        (void)nanosleep(&pause, NULL);
        fd = open(at("pipe"), O_WRONLY);
        for (int i = 0; i < 3; i++) {
            (void)nanosleep(&pause, NULL);
            if (write(fd, "part ", 5) != 5)
                _exit(1);
        }
        _exit(close(fd) != 0);
    }
    assert_int_equal(sigaction(SIGALRM, &action, &before), 0);
    assert_int_equal(setitimer(ITIMER_REAL, &tick, NULL), 0);
    status = ousac_file_read_text(&text, &size, at("pipe"), 1000, NULL);
    assert_int_equal(setitimer(ITIMER_REAL, &off, NULL), 0);
    assert_int_equal(sigaction(SIGALRM, &before, NULL), 0);
    if (status)
        (void)kill(child, SIGKILL); /* it waits for a reader */
    assert_int_equal(waitpid(child, &result, 0), child);
    assert_int_equal(status, OUSAC_STATUS_OK);
    assert_int_equal(result, 0);
    assert_int_equal(size, 15);
    assert_string_equal(text, "part part part ");
    assert_true(interrupts > 10);
    ousac_free(text);
}

static void reading_survives_failed_allocations(void **state) {
    ousac_status status = OUSAC_STATUS_MEMORY;
    char *text;
    long allowed;
    (void)state;
    memset(big, 'a', 100000);
    scratch_put(&dir, "x", big, 100000);
    for (allowed = 0; status == OUSAC_STATUS_MEMORY; allowed++) {
        (void)ousac_memory_fail_after(allowed);
        status = ousac_file_read_text(&text, NULL, at("x"), 1000000, NULL);
        (void)ousac_memory_fail_after(-1);
        if (status)
            assert_null(text);
    }
    assert_int_equal(status, OUSAC_STATUS_OK);
    assert_true(allowed > 3);
    ousac_free(text);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void) {
    const struct CMUnitTest tests[] = {
        TEST(every_size_comes_back),
        TEST(parts_of_every_size_join_in_order),
        TEST(nothing_appears_before_the_commit),
        TEST(discard_leaves_the_old_file),
        TEST(what_a_check_refuses_never_gets_the_name),
        TEST(two_writers_of_one_name_do_not_meet),
        TEST(rewrite_changes_written_bytes_only),
        TEST(mode_follows_the_umask),
        TEST(relative_and_longest_names),
        TEST(a_symbolic_link_survives),
        TEST(a_link_to_a_device_is_refused),
        TEST(directories_are_refused),
        TEST(directories_are_made_with_those_above),
        TEST(a_device_is_refused_and_lives),
        TEST(a_pipe_is_refused_and_lives),
        TEST(a_missing_directory_is_io),
        TEST(a_protected_directory_is_io),
        TEST(a_write_past_the_limit_leaves_the_old_file),
        TEST(a_flush_past_the_limit_leaves_the_old_file),
        TEST(a_full_disk_leaves_the_old_file),
        TEST(a_failed_allocation_leaves_the_old_file),
        TEST(map_refuses_what_is_no_file),
        TEST(text_has_a_limit_and_no_nul),
        TEST(long_text_grows),
        TEST(interrupted_reads_go_on),
        TEST(reading_survives_failed_allocations),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
