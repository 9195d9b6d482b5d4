# What every plot script begins with: the terminal, styles, colours and a few functions. `ousac plot` feeds this file and a
# script to gnuplot (5.4 or later) with these variables set:
#
#     tables    directory of the tables, ending with a slash (plots/TABLES.md lists them)
#     terminal  "svg", "png" or "dumb" (text)
#     columns   width of the text
#     nothing   what a plot without data says
#     name      of the plot; prefix of the ids of an SVG
#     grid      of samples.gp: labels of the image's rows separated by "|"; "" where there is no image
#
# By hand, from the root of the repository:
#
#     gnuplot -e "tables='build/demo/plots/'; terminal='svg'" plots/delta.gp > delta.svg

if (!exists("tables")) tables = "./"
if (!exists("terminal")) terminal = "svg"
if (!exists("columns")) columns = 100
if (!exists("nothing")) nothing = ""
if (!exists("name")) name = "plot"
if (!exists("grid")) grid = ""
ousac_common = 1
text = terminal eq "dumb"

set encoding utf8
set datafile separator "\t"
set datafile missing "nan"
set datafile columnheaders

# start(W, H, LINES): the terminal, W x H in units of 1/96 inch, or that many lines of text.
start(w, h, lines) = terminal eq "svg" \
    ? sprintf("set terminal svg size %d,%d dynamic font 'sans-serif,14' name '%s' noenhanced background rgb 'white'", w, h, name) \
    : terminal eq "png" \
    ? sprintf("set terminal pngcairo size %d,%d font 'sans-serif,11' fontscale 1.6 linewidth 1.6 pointscale 1.5 noenhanced background rgb 'white'", 1.6 * w, 1.6 * h) \
    : sprintf("set terminal dumb mono size %d,%d noenhanced", columns, lines)

# Okabe and Ito's palette, which people of every colour vision tell apart; viridis for magnitudes.
black = 0x000000; grey = 0x808080; orange = 0xE69F00; sky = 0x56B4E9; green = 0x009E73
yellow = 0xC8B400; blue = 0x0072B2; vermillion = 0xD55E00; purple = 0xCC79A7
array series_colour[6] = [vermillion, green, purple, orange, sky, yellow]
colour_of(i) = series_colour[1 + i % 6]
set palette defined (0 "#440154", 1 "#472d7b", 2 "#3b528b", 3 "#2c728e", 4 "#21918c", 5 "#28ae80", 6 "#5ec962", \
                     7 "#addc30", 8 "#fde725")

set border 3 lc rgb black lw 1
set tics nomirror out scale 0.6
set grid ytics lc rgb "#808080" lw 0.4 dt (2, 4)
set key outside top center horizontal samplen 2
set style fill solid 1.0 noborder
set fit quiet
set format x "%g"

max2(a, b) = a > b ? a : b
min2(a, b) = a < b ? a : b
# A step between labelled tics so that at most `most` of `count` are labelled.
tic_step(count, most) = count <= most ? 1 : count <= 2 * most ? 2 : count <= 5 * most ? 5 : \
                        count <= 10 * most ? 10 : 10 * ceil(count / (10.0 * most))
# Collects distinct words: `using (add(strcol("kind")))` fills the global `words_seen`, blanks at both ends.
words_seen = " "
add(word) = strstrt(words_seen, " ".word." ") ? 0 : (words_seen = words_seen.word." ", 0)

# Labels at 1, 2 and 5 of every decade, for logarithmic axes that span few; at every decade, or every few, for others.
tics_125 = ""
do for [e = -14:3] { do for [m in "1 2 5"] { tics_125 = tics_125.sprintf("%s'%g' %g", strlen(tics_125) ? ", " : "", \
                                                                       m * 10.0**e, m * 10.0**e) } }
log_tics(low, high) = high < 300 * low ? "set ytics nomirror out (".tics_125.")" : \
                      sprintf("set ytics nomirror out autofreq %g", 10.0**ceil((log10(high) - log10(low)) / 8))

# An empty frame that says why it is empty.
why = strlen(nothing) ? nothing : "there is nothing to show"
say_nothing = "unset key; unset tics; unset colorbox; unset logscale; unset grid; set border 15; ".\
    "set label 99 'no data: '.why at graph 0.5, 0.5 center; plot [0:1] [0:1] NaN notitle; unset label 99"
