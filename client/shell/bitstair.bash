# bash completion for bitstair; the program itself says what fits.
_bitstair() {
  local program=${COMP_WORDS[0]/#\~/$HOME} rest=$COMP_LINE piece between i
  local -a words=()
  # Bash also breaks words at = and : ; pieces that touch in the line are one word of ours.
  for ((i = 0; i <= COMP_CWORD; ++i)); do
    piece=${COMP_WORDS[i]}
    between=${rest%%[![:space:]]*}
    rest=${rest:${#between}}
    rest=${rest:${#piece}}
    if ((i > 0)) && [[ -z $between && -n $piece ]]; then words[-1]+=$piece; else words+=("$piece"); fi
  done
  local word=${words[-1]} cut=0
  # Only what follows the last break is replaced.
  piece=${COMP_WORDS[COMP_CWORD]}
  [[ $piece == [=:]* ]] && piece=
  cut=$((${#word} - ${#piece}))

  local -a lines=() found=()
  mapfile -t lines < <("$program" __complete "${words[@]:1}" 2>/dev/null)
  local kind before endings file
  IFS=$'\t' read -r kind before endings <<<"${lines[0]//$'\t'/ $'\t'}"
  before=${before% } kind=${kind% } endings=${endings% }
  case $kind in
    files | folders)
      compopt -o filenames
      local path=${word:${#before}}
      [[ $path != \~/* ]] || path=$HOME${path:1}
      mapfile -t found < <(compgen -d -- "$path")
      if [[ $kind == files ]]; then
        while IFS= read -r file; do
          if [[ -d $file ]]; then continue; fi
          if [[ -z $endings || " $endings " == *" ${file##*.} "* ]]; then found+=("$file"); fi
        done < <(compgen -f -- "$path")
      fi
      found=("${found[@]/#/$before}")
      [[ ${#found[@]} -eq 1 && -z ${found[0]} ]] && found=()
      ;;
    *)
      [[ $kind == "words open" ]] && compopt -o nospace
      found=("${lines[@]:1}")
      found=("${found[@]%%$'\t'*}")
      ;;
  esac
  COMPREPLY=()
  for file in "${found[@]}"; do COMPREPLY+=("${file:cut}"); done
}
complete -F _bitstair bitstair
